"""`ModelLoader`: loads the models of a server, loads them again beside those that serve, and closes them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gnomon.encoder import Encoder
from gnomon.errors import InputError, ModelError, SourceError
from gnomon.serve.cl100k import load_cl100k
from gnomon.serve.models import ModelRegistry, OnStep, ServedModel
from gnomon.serve.options import ModelOptions, ServeOptions
from gnomon.serve.requests import ErrorKind, RequestError
from gnomon.serve.service import Service

Load = Callable[[ModelOptions], Encoder]


class ModelLoader:
    """Puts models into a service, and takes them out.

    Args:
        options: what the operator chose.
        load: reads a model.
        service: what answers with the models.
        on_step: as in `ServedModel`.
    """

    def __init__(self, options: ServeOptions, load: Load, service: Service, on_step: OnStep) -> None:
        self.options, self.service = options, service
        self._load, self._on_step = load, on_step
        self._retiring = dict[ServedModel, asyncio.Task[None]]()
        """Models that another one has replaced, while they end what they have begun."""
        self._open = set[ServedModel]()
        self._closed = False
        self._lock = threading.Lock()
        """Of the two: models are loaded in threads, which go on where the task that waits for them is cancelled."""

    async def load_all(self) -> None:
        """
        Raises:
            GnomonError: a model that cannot be loaded; then none is there.
        """
        models = list[ServedModel]()
        try:
            if self.options.token_ids == "cl100k":
                self.service.decode_cl100k = await asyncio.to_thread(load_cl100k)
            for options in self.options.models:
                models.append(await asyncio.to_thread(self._load_model, options))
            self.service.models = ModelRegistry(models)
        except BaseException:
            for model in models:
                self._close_model(model)
            raise

    async def reload(self, name: str | None, revision: str | None, *, changed_only: bool) -> list[str]:
        """Load models again; then requests go to the new ones, and the old ones end what they have begun. Returns the
        names of those that were loaded.

        Args:
            name, revision, changed_only: as in `App.reload`.

        Raises:
            RequestError: as `App.reload`.
        """
        only = () if name is None else (self.service.models.find_known(name),)
        fresh = dict[ServedModel, ServedModel]()
        for model in only or self.service.models:
            options = model.options if revision is None else replace(model.options, revision=revision)
            try:
                if not changed_only or await asyncio.to_thread(model.has_changed):
                    fresh[model] = await asyncio.to_thread(self._load_model, options)
            except Exception as error:
                for each in fresh.values():
                    await asyncio.to_thread(self._close_model, each)
                is_choice = revision is not None and isinstance(error, (InputError, ModelError, SourceError))
                kind: ErrorKind = "invalid" if is_choice else "internal"
                message = f"{model.name} could not be loaded again, and goes on as it is: {error}"
                raise RequestError(message, kind) from error
        self.service.models = ModelRegistry([fresh.get(model, model) for model in self.service.models])
        for model in fresh:
            self._retiring[model] = asyncio.ensure_future(self._retire(model))
        return [model.name for model in fresh]

    async def close(self) -> None:
        """Let go of all models, also of one that is being loaded; what still waits for them fails."""
        for task in self._retiring.values():
            task.cancel()
        with self._lock:
            self._closed = True
            models = [*self._open]
        for model in models:
            await asyncio.to_thread(self._close_model, model)

    def _load_model(self, options: ModelOptions) -> ServedModel:
        encoder = self._load(options)
        try:
            model = ServedModel(
                encoder,
                options,
                self.options,
                notify=self.service.notify,
                cache=self.service.cache,
                on_step=self._on_step,
            )
        except BaseException:
            encoder.close()
            raise
        with self._lock:
            self._open.add(model)
            is_late = self._closed
        if is_late:
            self._close_model(model)
        return model

    def _close_model(self, model: ServedModel) -> None:
        with self._lock:
            self._open.discard(model)
        model.close()

    async def _retire(self, model: ServedModel) -> None:
        """Close a model once the requests that use it are answered."""
        while any(call.model is model for call in self.service.calls):
            await asyncio.sleep(0.1)
        await asyncio.to_thread(self._close_model, model)
        del self._retiring[model]


def describe_model(model: ServedModel) -> dict[str, Any]:
    """The facts of a model, as fields of a log line."""
    info = model.info()
    return {
        "source": info.source,
        "engine": info.engine,
        "dimensions": list(info.dimensions),
        "prompts": list(info.prompts),
        "tokens_per_second": info.stats["tokens_per_second"],
        "fingerprint": info.fingerprint[:12],
    }
