"""Nodes for ComfyUI that have meshes made and painted by `threed serve`."""

from threed.apps.packs.comfyui.nodes import NAMES, NODES

NODE_CLASS_MAPPINGS = NODES
NODE_DISPLAY_NAME_MAPPINGS = NAMES

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
