# Cleat: what a fault leads to: STEP x WHO x KIND x mode -> outcome.
# SPDX-License-Identifier: Apache-2.0
"""The rules of the weight update, as a table.

With 3 replicas, a minimum of 1, and 3 attempts. The README's table is printed
from this; matrix.py runs every cell of it through real processes.
"""

STEPS = ("start", "pause", "release", "prepare", "group", "send", "send@1",
         "send@5", "commit", "finalize", "restore", "resume")
# Who has such a command.
TRAINER_STEPS = ("start", "prepare", "group", "send", "send@1", "send@5",
                 "finalize")
ATTEMPT_STEPS = ("prepare", "group", "send", "send@1", "send@5")
MODES = ("staged", "in-place")

# A fault that goes on for as long as that member is tried, or ends it.
LASTING = ("permanent", "kill", "stop")
# One that passes: it strikes once, and the member answers again in time.
PASSING = ("error", "lost-answer", "late", "duplicate", "corrupt", "slow=300",
           "stop=300")
# Longer than the step may take, and over when finalize is asked for.
LONG = ("slow=1500", "stop=1500")

COMMITTED, DEGRADED, ROLLED_BACK, RESTART = 0, 3, 4, 5
NAMES = {COMMITTED: "COMMITTED", DEGRADED: "DEGRADED",
         ROLLED_BACK: "ROLLED_BACK", RESTART: "RESTART"}


def has_command(step, who):
    return who != "trainer" or step in TRAINER_STEPS


def applied_before(step):
    """Have bytes been applied, in every replica, when the trainer fails?"""
    return step.startswith("send@") and step != "send@1"


def expected(step, who, kind, mode):
    if kind in PASSING:
        return COMMITTED
    if kind in LONG:
        return (COMMITTED if who == "trainer" or step in ATTEMPT_STEPS
                or step == "start" else DEGRADED)
    if step == "start":
        return RESTART
    if who != "trainer":
        return DEGRADED
    if step == "finalize":
        return COMMITTED  # it came after commit; the error is listed
    if mode == "in-place" and applied_before(step):
        return RESTART
    return ROLLED_BACK


def victim_state(step, who, kind):
    """What becomes of a replica that a fault has struck."""
    if kind in PASSING or expected(step, who, kind, "staged") == COMMITTED:
        return "serving"
    if step == "start":
        return "dead"
    return "dead" if kind in ("kill", "stop") else "quarantined"


def table():
    """The README's table, in Markdown."""
    def cell(step, who, kind):
        if not has_command(step, who):
            return "-"
        found = [expected(step, who, kind, mode) for mode in MODES]
        text = NAMES[found[0]]
        if found[1] != found[0]:
            text += f", in-place {NAMES[found[1]]}"
        return text

    columns = [("trainer", "passing"), ("trainer", "lasting"),
               ("replica", "passing"), ("replica", "lasting")]
    lines = ["| STEP | " + " | ".join(f"{who}: {what}" for who, what in columns)
             + " |", "|---" * (1 + len(columns)) + "|"]
    for step in STEPS:
        row = [step]
        for who, what in columns:
            kinds = PASSING if what == "passing" else LASTING
            found = {cell(step, who, kind) for kind in kinds}
            assert len(found) == 1, (step, who, what, found)
            row.append(found.pop())
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
