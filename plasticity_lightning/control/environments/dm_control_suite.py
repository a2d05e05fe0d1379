"""Tasks of dm_control's suite from pixels, by DrQ-v2's rules: 84x84, camera 0 (quadruped: 2), action repeat 2, [-1, 1].

A frame is rendered at one of three qualities: "exact" has the pixels of dm_control's default; "near" a small shadow map;
"fast" no shadows, reflections or multisampling. Costs and errors of each are in the guide on environments. Source: the
published code of DrQ-v2 (Yarats et al. 2022), `dmc.py`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from plasticity_lightning.control.environments.contract import ContinuousActions, PixelEnvironment, State, Step
from plasticity_lightning.control.environments.headless import import_suite
from plasticity_lightning.control.environments.packing import pack, unpack

__all__ = ["DmControlEnvironment", "RenderQuality", "suite_tasks"]

RenderQuality = Literal["exact", "near", "fast"]

_SHADOW_MAP = {"exact": None, "near": 512, "fast": None}  # pixels a side; None leaves the model's own
_CAMERA = {"quadruped": 2}
_UNBOUNDED = 1e10  # MuJoCo's mjMAXVAL, which dm_control gives as the bound of a control without one
_PLAIN = (bool, int, float, str, type(None))


def suite_tasks() -> dict[str, tuple[str, str]]:
    """(domain, task) by name, `cartpole_swingup` for instance; `cup_catch` is the literature's name of `ball_in_cup_catch`.

    Raises:
        UserError: if dm_control cannot be used here.
    """
    tasks = {f"{domain}_{task}": (domain, task) for domain, task in import_suite().ALL_TASKS}
    return tasks | {"cup_catch": tasks["ball_in_cup_catch"]}


class DmControlEnvironment(PixelEnvironment):
    """One task of the suite. The OpenGL context belongs to the thread that renders first; close it there.

    Args:
        task: a name of `suite_tasks`.
        seed: of the task's random states.
        size: height and width of the frame [3, size, size].
        action_repeat: simulated control steps an action; their rewards are summed.
        render_quality: see the module's text.
        camera: index; None takes DrQ-v2's.

    Raises:
        ValueError: if an argument is out of range.
        UserError: if dm_control or OpenGL cannot be used here.
    """

    def __init__(
        self,
        task: str,
        seed: int = 0,
        size: int = 84,
        action_repeat: int = 2,
        render_quality: RenderQuality = "exact",
        camera: int | None = None,
    ) -> None:
        if render_quality not in _SHADOW_MAP:
            raise ValueError(f"render_quality={render_quality!r} must be one of {', '.join(_SHADOW_MAP)}")
        if size < 1 or action_repeat < 1:
            raise ValueError(f"size={size} and action_repeat={action_repeat} must be positive")
        domain, task_name = suite_tasks()[task]
        self._environment = import_suite().load(domain, task_name, task_kwargs={"random": seed % 2**32})
        spec = self._environment.action_spec()
        self._low, self._high = spec.minimum.astype(np.float64), spec.maximum.astype(np.float64)
        if max(np.abs(self._low).max(), np.abs(self._high).max()) >= _UNBOUNDED:
            raise ValueError("its actions are unbounded, so that they cannot be scaled from [-1, 1]")
        model = self._environment.physics.model
        self._camera_id = _CAMERA.get(domain, 0) if camera is None else camera
        if not 0 <= self._camera_id < model.ncam:
            raise ValueError(f"camera={self._camera_id} must be in 0..{model.ncam - 1}, the cameras of {task}")
        limit = self._environment._step_limit
        steps = None if math.isinf(limit) else math.ceil(math.ceil(limit) / action_repeat)
        super().__init__(task, (3, size, size), ContinuousActions(*spec.shape), action_repeat, steps)
        self._task_entries = [k for k, v in vars(self._task).items() if isinstance(v, (*_PLAIN, np.ndarray))]
        self._pristine = {name: getattr(model.ptr, name).copy() for name in _array_names(model.ptr)}
        self._fast = render_quality == "fast"
        # before the first render, which makes buffers of these sizes
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        if (shadow_map := _SHADOW_MAP[render_quality]) is not None:
            model.vis.quality.shadowsize = shadow_map
        if self._fast:
            model.vis.quality.offsamples = 0
        self._camera: Any = None

    def render(self, height: int, width: int) -> np.ndarray:
        """The scene through the same camera and at the same quality, in any size; uint8 [height, width, 3]."""
        import mujoco

        physics, size = self._environment.physics, self.frame_shape[1]
        if max(height, width) <= size:
            return self._render(self._new_camera(height, width))
        view = physics.model.vis.global_
        with physics.contexts.gl.make_current() as context:
            context.call(mujoco.mjr_resizeOffscreen, width, height, physics.contexts.mujoco.ptr)
        view.offwidth, view.offheight = width, height
        try:
            return self._render(self._new_camera(height, width))
        finally:
            view.offwidth = view.offheight = size
            with physics.contexts.gl.make_current() as context:
                context.call(mujoco.mjr_resizeOffscreen, size, size, physics.contexts.mujoco.ptr)

    def close(self) -> None:
        """Free the simulation and its OpenGL context."""
        self._camera = None
        self._environment.close()

    @property
    def _task(self) -> Any:
        return self._environment.task

    def _reset(self) -> np.ndarray:
        self._environment.reset()
        return self._frame()

    def _step(self, action: np.ndarray) -> Step:
        scaled = self._low + (action.astype(np.float64) + 1) * 0.5 * (self._high - self._low)
        reward, discount = 0.0, 1.0
        for _ in range(self.frames_per_step):
            time_step = self._environment.step(scaled)
            reward += (time_step.reward or 0.0) * discount
            discount *= time_step.discount
            if time_step.last():
                break
        return Step(self._frame(), reward, discount, time_step.last())

    def _frame(self) -> np.ndarray:
        if self._camera is None:
            self._camera = self._new_camera(*self.frame_shape[1:])
        return np.ascontiguousarray(self._render(self._camera).transpose(2, 0, 1))

    def _new_camera(self, height: int, width: int) -> Any:
        from dm_control.mujoco.engine import Camera

        return Camera(self._environment.physics, height, width, self._camera_id)

    def _render(self, camera: Any) -> np.ndarray:
        flags = {"shadow": False, "reflection": False} if self._fast else None
        return np.array(camera.render(render_flag_overrides=flags))

    def _state(self) -> State:
        import mujoco

        environment = self._environment
        model, data = environment.physics.model.ptr, environment.physics.data.ptr
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        simulation = np.empty(mujoco.mj_stateSize(model, kind))
        mujoco.mj_getState(model, data, simulation, kind)
        name, key, position, has_gauss, gauss = self._task.random.get_state()
        # many tasks place their target by changing the model at the start of an episode
        changed = {k: v for k, before in self._pristine.items() if not np.array_equal(v := getattr(model, k), before)}
        return {
            "simulation": pack(simulation),
            "sensors": pack(data.sensordata),
            "model": {k: pack(v) for k, v in changed.items()},
            "task": {k: _plain(getattr(self._task, k)) for k in self._task_entries},
            "random": [name, pack(key), position, has_gauss, gauss],
            "elapsed": environment._step_count,
            "reset_next": environment._reset_next_step,
        }

    def _set_state(self, state: State) -> None:
        import mujoco

        environment = self._environment
        model, data = environment.physics.model.ptr, environment.physics.data.ptr
        for k, before in self._pristine.items():
            getattr(model, k)[...] = unpack(state["model"][k]) if k in state["model"] else before
        mujoco.mj_setState(model, data, unpack(state["simulation"]), mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_step1(model, data)  # all that follows from position and velocity, as dm_control leaves it
        data.sensordata[...] = unpack(state["sensors"])  # those of forces follow from the step before
        if environment.physics.model.nhfield:
            contexts = environment.physics.contexts
            with contexts.gl.make_current() as context:
                for i in range(environment.physics.model.nhfield):
                    context.call(mujoco.mjr_uploadHField, model, contexts.mujoco.ptr, i)
        for k, v in state["task"].items():
            setattr(self._task, k, unpack(v) if isinstance(v, dict) else v)
        name, key, *rest = state["random"]
        self._task.random.set_state((name, unpack(key), *rest))
        environment._step_count, environment._reset_next_step = state["elapsed"], state["reset_next"]


def _array_names(model: Any) -> list[str]:
    return [name for name in dir(model) if not name.startswith("_") and isinstance(getattr(model, name), np.ndarray)]


def _plain(value: Any) -> Any:
    return pack(value) if isinstance(value, np.ndarray) else value
