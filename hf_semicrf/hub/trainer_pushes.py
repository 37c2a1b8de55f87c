"""The pushes of a trainer, at the end and while training, kept to the list of what may leave."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi
from transformers.utils.hub import PushInProgress

from hf_semicrf.hub.allowed import additions, leaving
from hf_semicrf.hub.push import files_to_push, write_shim


class ListedPushes:
    """A class in front of the stock Trainer, whose pushes upload its whole output folder."""

    if TYPE_CHECKING:  # what the Trainer has

        def __getattr__(self, name: str) -> Any: ...

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the model and push it with its tokenizer, shim and card, and nothing else.

        What stays behind of `output_dir` is all that `leaving` does not list.

        Args:
            commit_message: Message of the commit.
            blocking: Whether to wait until all is uploaded.
            token: Token with the right to write; that of the arguments by default.
            revision: Branch to push to; that of the arguments by default.
            **kwargs: ``private`` as the stock push takes it, and what `create_model_card` takes.

        Returns:
            What the Hub says of the commit, or a future of it; None on all processes but the first.

        Raises:
            ValueError: A file that would go holds a token or a path of this machine.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        private = {"private": kwargs.pop("private")} if "private" in kwargs else {}
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, **private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        message = commit_message or "End of training"
        return self._commit(message, token, revision=revision, run_as_future=not blocking)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push what may go of a checkpoint while training goes on, as the stock method would.

        With the strategies "checkpoint" and "all_checkpoints" it lies in a folder of its own too:
        the model, and no state to train on from.
        """
        from transformers.trainer_utils import HubStrategy, SaveStrategy  # imports peft too

        strategy, running = self.args.hub_strategy, getattr(self, "push_in_progress", None)
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        if running is not None and not running.is_done():
            if not self.args.hub_always_push:
                return
            running.wait_until_done()  # it reads the files that are written below
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        names = leaving(checkpoint_folder).goes
        for name in names:  # the checkpoint may be removed before all is uploaded
            shutil.copy(Path(checkpoint_folder, name), Path(self.args.output_dir, name))
        write_shim(self.args.output_dir)
        self.create_model_card()
        if self.args.save_strategy == SaveStrategy.STEPS:
            message = f"Training in progress, step {self.state.global_step}"
        else:
            message = f"Training in progress, epoch {int(self.state.epoch or 0)}"
        jobs: Any = [self._commit(message, self.args.hub_token, run_as_future=True)]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            latest = strategy == HubStrategy.CHECKPOINT
            place = "last-checkpoint" if latest else Path(checkpoint_folder).name
            where: Any = {"only": names, "place": f"{place}/", "run_as_future": True}
            jobs.append(self._commit(f"{message}, checkpoint", self.args.hub_token, **where))
        self.push_in_progress = PushInProgress(jobs)

    def _commit(
        self,
        message: str,
        token: str | None,
        only: Sequence[str] | None = None,
        place: str = "",
        revision: str | None = None,
        **options: Any,
    ) -> Any:
        """Commit those files of the output folder that may go."""
        folder, api = self.args.output_dir, self._hub_api
        names = [n for n in files_to_push(folder) if only is None or n in only]
        return api.create_commit(
            self.hub_model_id,
            additions(folder, names, token, place),
            commit_message=message,
            token=token,
            revision=revision or self.args.hub_revision,
            **options,
        )

    @cached_property
    def _hub_api(self) -> HfApi:
        """What commits in the background, one after the other."""
        return HfApi()
