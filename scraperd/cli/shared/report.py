"""What a command finds out, one after the other: told as lines, or as one line of JSON at the end.

May touch: the terminal.
Must never: print a line beside the JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from scraperd.base.jsonline import dumps
from scraperd.cli.console import say, show


@dataclass(slots=True)
class Report:
    """Lines go to standard output, warnings and faults to standard error, each as it is found.

    With `as_json` nothing is printed before the end.
    """

    as_json: bool
    values: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def tell(self, text: str, **values: Any) -> None:
        """Tell what was found: `text` as a line, `values` as JSON."""
        self.values |= values
        if not self.as_json:
            say(text)

    def remark(self, text: str) -> None:
        """Tell in words what needs no action."""
        self.remarks.append(text)
        self.tell(text)

    def warn(self, text: str) -> None:
        """Tell what may need an action."""
        self.warnings.append(text)
        self._complain(text)

    def fault(self, text: str) -> None:
        """Tell what fails."""
        self.faults.append(text)
        self._complain(text)

    def _complain(self, text: str) -> None:
        if not self.as_json:
            say(f"scraperd: {text}", err=True)

    def end(self) -> None:
        """Print the line of JSON, if that is wanted."""
        if self.as_json:
            said = {"remarks": self.remarks, "warnings": self.warnings, "faults": self.faults}
            show(dumps({**self.values, **said}))
