"""The reconciler: what the rows want and the queues have is compared, and made to agree.

PostgreSQL is the truth. An order whose customer was not told yet needs a job: one that charges
while its payment is open, one that notifies after. `look.py` reads the orders and finds out what
is known of each, `decide.py` says what is to be done, `run.py` does it, and `plan.py` only tells.
"""

from orderflow.reconcile.decide import Action, Decision, Rules
from orderflow.reconcile.plan import Plan, Planned, make_plan
from orderflow.reconcile.run import RUN_AT_MOST_S, Counts, run_once

__all__ = [
    "RUN_AT_MOST_S",
    "Action",
    "Counts",
    "Decision",
    "Plan",
    "Planned",
    "Rules",
    "make_plan",
    "run_once",
]
