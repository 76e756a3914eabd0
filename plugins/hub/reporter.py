"""The hub as a reporter: ``--report hub:me/entropy-neurons`` sends a run as soon as it is finished."""

from __future__ import annotations

from pydantic import Field

from harness.plugin import Asked, FinishedRun, HarnessError, Reporter


class Hub(Reporter):
    """A dataset repository of the Hugging Face hub, private unless you say otherwise, as ``harness push`` makes it.

    It holds one run; what is there and is another run, or none, is left alone.
    """

    name = "hub"
    positional = "to"
    does = "sending the run to the hub"
    to: str = Field(description="the repository, user/dataset")
    public: bool = Field(False, description="everybody can read it")
    replace: bool = Field(False, description="in place of another run that is there")

    def ready(self, asked: Asked) -> None:
        from .sending import api, check_name

        check_name(self.to, "--report hub: to")
        if len(asked.runs) > 1:
            raise HarnessError(
                f"--report hub: a repository holds one run, and {len(asked.runs)} are asked for; `harness push` sends "
                "each of them where you want it."
            )
        api()

    def finished(self, run: FinishedRun) -> None:
        from .sending import push

        push(run.folder, self.to, self.public, self.replace)
