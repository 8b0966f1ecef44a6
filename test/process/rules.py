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


# What the last cells of the table need besides the fault.
SPECIAL = (
    # (step, who, kind, options, {mode: outcome})
    ("send@5", "replica", "kill", ("--attempts-max", "1"),
     {"staged": ROLLED_BACK, "in-place": RESTART}),
    ("send@1", "trainer", "corrupt", ("--attempts-max", "1"),
     {"staged": ROLLED_BACK, "in-place": ROLLED_BACK}),
    ("pause", "replica", "kill", ("--replicas-min", "3"),
     {"staged": RESTART, "in-place": RESTART}),
    ("resume", "replica", "kill", ("--replicas-min", "3"),
     {"staged": RESTART, "in-place": RESTART}),
)
LABELS = {"send@5": "send@K, K > 1"}


def both_modes(staged, in_place):
    text = NAMES[staged]
    return text if in_place == staged else f"{text}, in-place {NAMES[in_place]}"


def table():
    """The README's table, in Markdown."""
    def cell(step, who, kinds):
        if not has_command(step, who):
            return "refused"
        found = {both_modes(*(expected(step, who, kind, mode)
                              for mode in MODES)) for kind in kinds}
        assert len(found) == 1, (step, who, kinds, found)
        return found.pop()

    columns = [(who, kinds) for who in ("replica", "trainer")
               for kinds in (PASSING, LASTING)]
    lines = ["| STEP | replica: passes | replica: lasts | trainer: passes "
             "| trainer: lasts |", "|---|---|---|---|---|"]
    for step in STEPS:
        cells = [cell(step, who, kinds) for who, kinds in columns]
        lines.append("| " + " | ".join([LABELS.get(step, step), *cells]) + " |")
    for step, who, kind, options, modes in SPECIAL:
        text = both_modes(*(modes[mode] for mode in MODES))
        step = LABELS.get(step, step)
        where = f"{step} : {kind}, `{' '.join(options)}`"
        cells = ["", text, "", ""] if who == "replica" else ["", "", text, ""]
        lines.append("| " + " | ".join([where, *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
