"""Personalization: a subject, a face or a style from pictures, and none from words."""
