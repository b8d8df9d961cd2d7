"""A process whose prompts are looked at, in a module of its own so that a run can find it again by name."""

from typing import Any, ClassVar

import mdap

__all__ = ["Rows"]


class Rows(mdap.Process[Any]):
    """Read rows side by side, each in two views, then choose; nested or once if asked for.

    What an author may edit are class variables, so that a test can edit them.
    """

    word: ClassVar[str] = "Row"
    keyed: ClassVar[bool] = True
    prefix: ClassVar[str] = "row"
    schema: ClassVar[Any] = {"type": "string", "enum": ["a", "b"]}
    tokens: ClassVar[int] = 40
    more: ClassVar[bool] = False

    rows: int = 4
    text: str = "the document"
    nested: bool = False
    once: bool = False

    def row(self, number: int) -> mdap.Step[str]:
        view: mdap.View[str] = mdap.View(user=f"Which name has row {number} of {self.text}?", parse=str.strip)
        return mdap.Step(
            system="You read rows.",
            user=f"{self.word} {number} of {self.text}: its name?",
            parse=str.strip,
            schema=self.schema,
            max_tokens=self.tokens,
            views=(view,),
            key=f"{self.prefix}/{number}" if self.keyed else None,
        )

    async def solve(self, ask: mdap.Ask) -> Any:
        if self.once:
            await ask.once(lambda: 1 / 0, key="pay")
        names = await ask.map(self.row(number) for number in range(self.rows))
        if self.nested:
            names.append(await ask.solve(Rows(rows=1, text="the annex"), key="annex"))
        if self.more:
            await ask(mdap.Step(user="Something else entirely, 0123456789?", parse=str.strip))
        return await ask(mdap.Step(user=f"The best of {', '.join(names)}?", parse=str.strip))

    def oracle(self, step: mdap.Step[Any]) -> str:
        return "b" if step.user.startswith("The best") else "a"

    def mistakes(self, step: mdap.Step[Any], truth: str) -> list[str]:
        return [f"not {truth}"]

    def render(self, step: mdap.Step[Any], answer: str) -> str:
        return answer
