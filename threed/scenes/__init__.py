"""What is optimised: fields, surfaces, textured meshes."""
