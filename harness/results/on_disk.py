"""What all files of a run have in common when they are read: types as JSON has them, numbers that are numbers."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from harness.errors import HarnessError

Whole = Annotated[int, Field(gt=-(2**63), lt=2**63)]
"""A whole number of at most 64 bits, as arrays and tables hold."""


def _unchanged(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Whole numbers stay whole, so that what is read is written as it was."""
    validate(value)
    return value


Real = Annotated[float, Field(allow_inf_nan=False), WrapValidator(_unchanged)]
"""A finite number."""

Number = Real | None
"""A finite number; None where it is not defined."""

Values = dict[str, Any]
"""JSON values by name, which a component has given."""


class OnDisk(BaseModel):
    """A file of a run, or a piece of one.

    It may hold more than its fields say: what else is there stays, in ``model_extra``.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)

    @classmethod
    def read(cls, data: Any, where: str) -> Self:
        """``data``, JSON values, as this.

        Raises:
            HarnessError: one sentence that begins with ``where`` and names the first place that is not as expected.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            got = repr(first["input"])
            missing = first["type"] == "missing"
            why = "it is missing" if missing else f"{first['msg'][:1].lower()}{first['msg'][1:]}, got {got[:60]}"
            raise HarnessError(f"{where}: {place or 'the file'}: {why}; the file is damaged.") from error

    def to_dict(self) -> dict[str, Any]:
        """JSON values as they stand in the file: a field that was not given is not there."""
        return self.model_dump(by_alias=True, exclude_unset=True)
