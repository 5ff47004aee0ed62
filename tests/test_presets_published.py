"""The presets of published systems against what was published, number by number.

A row is a setting, its value here, and where it was published: a file and key of the authors' or
threestudio's code, or the paper. Values are of our conventions: guidance is uncond + s (text -
uncond), so that threestudio's 100 is 101; samples cross a ball of diameter 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from math import log, radians, sin
from typing import Any

import pytest
import yaml

from threed.settings.base import plain
from threed.settings.presets import load_run

VOLUME = """
field.levels: 16                    # pos_encoding_config.n_levels
field.log2_table: 19                # pos_encoding_config.log2_hashmap_size
field.base_resolution: 16           # pos_encoding_config.base_resolution
field.max_resolution: 4096          # pos_encoding_config.per_level_scale: 16 * 1.44727 ** 15
field.features: 2                   # pos_encoding_config.n_features_per_level
field.hidden: 64                    # implicit_volume.py: mlp_network_config.n_neurons
field.blob_bias: 10                 # geometry.density_blob_scale
field.blob_radius: 0.5              # geometry.density_blob_std
field.density_gain: 1               # geometry.density_activation: softplus
field.occupancy: 32                 # nerf_volume_renderer.py: OccGridEstimator
field.occupancy_every: 16           # nerfacc: update_every_n_steps
field.occupancy_decay: 0.95         # nerfacc: ema_decay
field.occupancy_alpha: 0.01         # nerfacc: occ_thre
field.background: learned           # background_type: neural-environment-map-background
"""
SHAKEN = """
stages.{n}.cameras.elevation_deg: [-10, 45]  # data.elevation_range
stages.{n}.cameras.zoom: [1.5, 2.0]          # data.camera_distance_range
stages.{n}.cameras.distance_by: none         # uncond.py
stages.{n}.cameras.jitter: 0.1               # uncond.py: camera_perturb
stages.{n}.cameras.aim: 0.2                  # uncond.py: center_perturb
stages.{n}.cameras.up: 0.02                  # uncond.py: up_perturb
stages.{n}.batch: 1                          # data.batch_size, uncond.py
stages.{n}.lr: 0.01                          # optimizer.args.lr
stages.{n}.optimizer: adam                   # optimizer.name
stages.{n}.guidance_scale: 101               # guidance.guidance_scale: 100, + 1
stages.{n}.t_min: 0.02                       # guidance.min_step_percent
stages.{n}.rescale: 0                        # not in stable_diffusion_guidance.py
stages.{n}.front_deg: 45                     # prompt_processors/base.py: front_threshold
stages.{n}.lamp.textureless: 0.5            # diffuse_with_point_light_material.py: textureless_prob
"""
DREAMFUSION = (
    VOLUME
    + SHAKEN.replace("{n}", "0")
    + """
field.start_levels: 8               # pos_encoding_config.start_level
field.level_from: 2000              # pos_encoding_config.start_step
field.level_every: 500              # pos_encoding_config.update_steps
field.samples: 148                  # renderer.num_samples_per_ray: 512, radius 2
field.net_rate: 1                   # optimizer.params.geometry.lr: 0.01
field.shading: 0.9                  # diffuse_with_point_light_material.py: diffuse_light_color
stages.0.steps: 10000               # trainer.max_steps
stages.0.resolution: 64             # data.width
stages.0.weighting: sigma2          # guidance.weighting_strategy: sds
stages.0.t_max: 0.98                # guidance.max_step_percent
stages.0.random_background: 0       # neural_environment_map_background.py: random_aug
stages.0.lamp.share: {0: 0, 2000: 0, 2001: 0.75}  # material.ambient_only_steps, diffuse_prob
stages.0.lamp.soft: false           # diffuse_with_point_light_material.py: soft_shading
stages.0.lamp.place: normal         # data.light_sample_strategy: dreamfusion
stages.0.losses.sparsity: 1         # loss.lambda_sparsity
stages.0.losses.orientation: {0: 10, 5000: 1000}  # loss.lambda_orient
stages.0.cameras.fov_y_deg: [40, 70]  # data.fovy_range
"""
)
MAGIC3D = (
    VOLUME
    + SHAKEN.replace("{n}", "0")
    + SHAKEN.replace("{n}", "1")
    + """
field.hidden: 32                    # paper: two nets of one layer of 32
field.start_levels: 16              # pos_encoding_config.otype: HashGrid
field.samples: 148                  # renderer.num_samples_per_ray: 512, radius 2
field.net_rate: 1                   # optimizer.params.geometry.lr: 0.01
field.occupancy_every: 10           # paper
field.occupancy_decay: 0.6          # paper
field.shading: 1                    # material.soft_shading
surface.grid: 128                   # geometry.isosurface_resolution
surface.shading: 1                  # material.soft_shading
paint.net_rate: 1                   # optimizer.args.lr
stages.0.steps: 5000                # paper
stages.0.resolution: 64             # data.width
stages.0.weighting: uniform         # guidance.weighting_strategy
stages.0.t_max: 0.98                # guidance.max_step_percent
stages.0.random_background: 0       # neural_environment_map_background.py: random_aug
stages.0.lamp.share: {0: 0, 2000: 0, 2001: 0.75}  # material.ambient_only_steps, diffuse_prob
stages.0.lamp.soft: true            # material.soft_shading
stages.0.lamp.place: cone           # data.light_sample_strategy: magic3d
stages.0.losses.sparsity: 1         # loss.lambda_sparsity
stages.0.losses.orientation: {0: 10, 5000: 1000}  # loss.lambda_orient
stages.0.cameras.fov_y_deg: [40, 70]  # uncond.py: fovy_range
stages.1.steps: 3000                # paper
stages.1.resolution: 512            # data.width
stages.1.weighting: sigma2          # guidance.weighting_strategy: sds
stages.1.t_max: 0.5                 # guidance.max_step_percent
stages.1.lamp.share: 0.75           # material.ambient_only_steps: 0, diffuse_prob
stages.1.lamp.soft: true            # material.soft_shading
stages.1.losses.normal_consistency: 10000  # loss.lambda_normal_consistency
stages.1.cameras.fov_y_deg: [30, 45]  # data.fovy_range
"""
)
MVDREAM = (
    VOLUME
    + """
field.start_levels: 16              # pos_encoding_config.otype: HashGrid
field.samples: 296                  # renderer.num_samples_per_ray: 512, radius 1
field.net_rate: 0.1                 # optimizer.params.geometry.feature_network.lr: 0.001
field.shading: 0                    # material_type: no-material
stages.0.steps: 10000               # trainer.max_steps
stages.0.batch: {0: 8, 5000: 4}                     # data.batch_size, resolution_milestones
stages.0.resolution: {0: 64, 4999: 64, 5000: 256}   # data.width, resolution_milestones
stages.0.lr: 0.01                   # optimizer.params.geometry.encoding.lr
stages.0.optimizer: adamw           # optimizer.name
stages.0.guidance_scale: 50         # guidance.guidance_scale
stages.0.weighting: x0              # guidance.recon_loss
stages.0.t_min: {0: 0.98, 8000: 0.02}  # guidance.min_step_percent
stages.0.t_max: {0: 0.98, 8000: 0.5}   # guidance.max_step_percent
stages.0.rescale: 0.5               # guidance.recon_std_rescale
stages.0.view_words: false          # multiview_diffusion_guidance.py: view_dependent_prompting
stages.0.random_background: 0.5     # background.random_aug
stages.0.losses: {}               # loss
stages.0.cameras.elevation_deg: [0, 30]  # data.elevation_range
stages.0.cameras.fov_y_deg: [15, 60]     # data.fovy_range
stages.0.cameras.zoom: [0.8, 1.0]        # data.camera_distance_range
stages.0.cameras.distance_by: tan        # random_multiview.py: relative_radius
stages.0.cameras.jitter: 0               # data.camera_perturb
"""
)
AUTHORS = (
    VOLUME
    + """
field.max_resolution: 2048          # main.py: desired_resolution
field.start_levels: 16              # encoding.py: num_levels
field.samples: 296                  # threestudio, renderer.num_samples_per_ray: 512, radius 1
field.net_rate: 0.1                 # network_particle.py: get_params
stages.0.batch: 1                   # main.py: one camera a step
stages.0.lr: 0.01                   # network_particle.py: 10 * main.py's lr
stages.0.optimizer: adam            # main.py: optim
stages.0.guidance_scale: 7.5        # README: --scale
stages.0.rescale: 0                 # not in sd.py
stages.0.critic.rank: 4             # diffusers: LoRAAttnProcessor
stages.0.critic.learning_rate: 0.0001  # main.py: unet_lr
stages.0.critic.warmup: 500         # main.py: warm_iters
stages.0.critic.updates: 1          # main.py: K
stages.0.critic.dropout: 0.1        # main.py: uncond_p
stages.0.critic.model: null
stages.0.front_deg: 30              # main.py: angle_front: 60
stages.0.random_background: {0: 0, 1999: 0, 2000: 0.5}  # utils.py: train_step
stages.0.cameras.elevation_deg: [-30, 89]  # main.py: theta_range: 0 to 120
stages.0.cameras.fov_y_deg: [40, 70]       # main.py: fovy_range
stages.0.cameras.zoom: [1.0, 1.5]          # main.py: radius_range
stages.0.cameras.distance_by: none         # provider.py: rand_poses
stages.1.cameras.elevation_deg: [-30, 89]  # main.py: theta_range: 0 to 120
stages.1.cameras.fov_y_deg: [30, 60]       # main.py: fovy_range with dmtet
stages.1.cameras.zoom: [1.0, 1.5]          # main.py: radius_range
stages.1.cameras.distance_by: none         # provider.py: rand_poses
stages.1.batch: 1
stages.1.rescale: 0
stages.1.front_deg: 30
stages.1.losses.normal_consistency: 10000  # threestudio, loss.lambda_normal_consistency
stages.2.cameras.elevation_deg: [-30, 89]  # main.py: theta_range: 0 to 120
stages.2.cameras.fov_y_deg: [30, 60]       # main.py: fovy_range with dmtet
stages.2.cameras.zoom: [1.0, 1.5]          # main.py: radius_range
stages.2.cameras.distance_by: none         # provider.py: rand_poses
stages.2.batch: 1
stages.2.rescale: 0
stages.2.front_deg: 30
stages.2.critic.rank: 4
stages.2.critic.learning_rate: 0.0001
"""
)
PROLIFICDREAMER = (
    AUTHORS
    + """
surface.grid: 128                   # threestudio, geometry.isosurface_resolution
stages.0.steps: 25000               # README: --iters
stages.0.resolution: {0: 64, 4999: 64, 5000: 512}  # threestudio, data.resolution_milestones
stages.0.weighting: sigma2          # sd.py: w
stages.0.t_min: 0.02                # main.py: t_range
stages.0.t_max: {0: 0.98, 5000: 0.98, 5001: 0.5}   # threestudio, guidance.max_step_percent
stages.0.losses.sparsity: 10        # threestudio, loss.lambda_sparsity
stages.0.losses.opaque: {0: 0, 10000: 0, 10001: 1000}  # threestudio, loss.lambda_opaque
stages.1.steps: 15000               # README: --iters
stages.1.resolution: 512            # main.py: h with dmtet
stages.1.lr: 0.005                  # network_particle.py: 5 * main.py's lr, of sdf and deform
stages.1.guidance_scale: 100        # README: --scale
stages.1.weighting: sigma2          # sd.py: w
stages.1.t_min: 0.02                # main.py: t_range with dmtet
stages.1.t_max: 0.5                 # main.py: t_range with dmtet
stages.1.losses.laplacian: 10000    # threestudio, loss.lambda_laplacian_smoothness
stages.2.steps: 30000               # README: --iters
stages.2.resolution: 512            # main.py: h with dmtet
stages.2.lr: 0.01                   # network_particle.py: 10 * main.py's lr
stages.2.guidance_scale: 7.5        # README: --scale
stages.2.weighting: sigma2          # sd.py: w
stages.2.t_min: 0.02                # main.py: t_range with dmtet
stages.2.t_max: 0.5                 # main.py: t_range with dmtet
stages.2.critic.warmup: 500         # main.py: warm_iters
"""
)
DREAMFLOW = (
    AUTHORS
    + """
surface.shape_lr: 0.5               # network_particle.py: sdf learns half as fast as the encoders
stages.0.resolution: 256            # page
stages.0.t_max: 1.0                 # page
stages.0.t_min: 0.2                 # page
stages.1.resolution: 512            # page
stages.1.lr: 0.01                   # network_particle.py: 10 * main.py's lr
stages.1.guidance_scale: 7.5        # README: --scale
stages.1.t_max: 0.5                 # page
stages.1.t_min: 0.1                 # page
stages.1.critic.rank: 4
stages.1.critic.learning_rate: 0.0001
stages.1.critic.warmup: 500
stages.2.backbone: stabilityai/stable-diffusion-xl-refiner-1.0  # page
stages.2.resolution: 1024           # page
stages.2.lr: 0.01                   # network_particle.py: 10 * main.py's lr
stages.2.guidance_scale: 7.5        # README: --scale
stages.2.t_max: 0.3                 # page
stages.2.t_min: 0                   # page
stages.2.losses.normal_consistency: 10000  # threestudio, loss.lambda_normal_consistency
"""
)
EDIT = """
stages.0.guidance_scale: 7.5        # in2n_pipeline.py
stages.0.t_min: 0.02                # in2n_pipeline.py: lower_bound
stages.0.t_max: 0.98                # in2n_pipeline.py: upper_bound
stages.0.edit.every: 10             # in2n_pipeline.py: edit_rate
stages.0.edit.passes: 20            # in2n_pipeline.py: diffusion_steps
stages.0.edit.image_scale: 1.5      # in2n_pipeline.py: image_guidance_scale
"""
TABLES = {
    "dreamfusion": DREAMFUSION, "magic3d": MAGIC3D, "mvdream": MVDREAM, "dreamflow": DREAMFLOW,
    "prolificdreamer": PROLIFICDREAMER, "edit": EDIT,
}  # fmt: skip
# names of settings that have nothing to do with what a paper says
OWN = ("preview_every", "checkpoint_every", "asset", "paint", "scene", "look", "guidance", "system",
       "backbone", "negative", "noise_levels", "critic")  # fmt: skip


def rows(table: str) -> dict[str, Any]:
    """The values of a table by setting; later rows win."""
    found = {}
    for line in filter(None, table.splitlines()):
        setting, _, value = line.partition(": ")
        found[setting] = yaml.safe_load(value)
    return found


def leaves(node: yaml.Node, path: str = "") -> Iterator[tuple[str, int]]:
    """The settings that a YAML text names, and the lines that they begin in."""
    if isinstance(node, yaml.MappingNode) and node.value[0][0].tag.endswith(":str"):
        for key, value in node.value:
            yield from leaves(value, f"{path}.{key.value}".lstrip("."))
    elif isinstance(node, yaml.SequenceNode) and isinstance(node.value[0], yaml.MappingNode):
        for number, value in enumerate(node.value):
            yield from leaves(value, f"{path}.{number}")
    else:
        yield path, node.start_mark.line


@pytest.mark.parametrize("name", TABLES)
def test_presets_hold_the_published_values(name: str) -> None:
    run = plain(load_run(name))
    for setting, value in rows(TABLES[name]).items():
        found: Any = run
        for key in setting.split("."):
            found = found[int(key)] if isinstance(found, list) else found[key]
        assert found == value, setting


@pytest.mark.parametrize("name", TABLES)
def test_what_a_preset_says_is_in_the_table_or_says_why_not(name: str) -> None:
    text = (files("configs") / f"{name}.yaml").read_text(encoding="utf-8")
    known, lines = rows(TABLES[name]), text.splitlines()
    said = dict(leaves(yaml.compose(text)))
    for setting, line in said.items():
        note = lines[line].partition(" # ")[2]
        if setting in known:
            assert note, f"{setting} has no source"
        elif not set(setting.split(".")) & set(OWN):
            assert note, f"{setting} is in no table, and does not say why"
            assert not note.startswith("["), f"{setting} has a source and is in no table"


def test_steps_along_a_ray_are_as_long_as_threestudios() -> None:
    for name, radius in (("dreamfusion", 2), ("magic3d", 2), ("mvdream", 1)):
        published = 1.732 * 2 * radius / 512
        assert 2 / load_run(name).field.samples == pytest.approx(published, rel=2e-3)
        # a level's resolution, as the growth from level to level has it
        assert load_run(name).field.max_resolution == round(16 * 1.447269237440378**15)


def test_magic3ds_fine_stage_magnifies_by_half_as_the_paper_does() -> None:
    coarse, fine = (stage.cameras for stage in load_run("magic3d").stages)
    assert (coarse.zoom, coarse.distance_by) == (fine.zoom, fine.distance_by)

    def focal(bounds: tuple[float, float]) -> float:
        low, high = (radians(bound) / 2 for bound in bounds)
        return log(sin(high) / sin(low)) / (high - low)  # the mean of 1 / tan

    assert focal(fine.fov_y_deg) / focal(coarse.fov_y_deg) == pytest.approx(1.5, rel=0.02)


def test_the_negative_prompt_of_mvdream_is_the_published_one() -> None:
    assert load_run("mvdream").negative == (  # prompt_processor.negative_prompt
        "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and "
        "unclear, cropped, lowres, low quality, artifacts, duplicate, morbid, mutilated, poorly "
        "drawn face, deformed, dehydrated, bad proportions"
    )


def test_mvdreams_variant_with_shading_is_said_as_its_comment_says() -> None:
    run = load_run("mvdream", [
        "lamp.share={0: 0, 4999: 0, 5000: 0.75}", "textureless=0.5", "field.shading=1",
        "losses={orientation: {0: 10, 5000: 1000}}",
    ])  # fmt: skip
    assert run.stages[0].lamp.share(4999) == 0
    assert run.stages[0].lamp.share(5000) == 0.75
    assert run.stages[0].losses["orientation"](5000) == 1000
