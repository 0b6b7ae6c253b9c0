"""A process of a team: takes its place through Lightning Fabric, then runs its task. Started by `study.together`.

    python -m torchbonsai.study.member STORE THREADS [MODULE…]

Its place is in the environment: MASTER_ADDR, MASTER_PORT, NODE_RANK, LOCAL_RANK. Otherwise it is a worker.
"""

from __future__ import annotations

import logging
import sys

from torchbonsai.study.store import Store
from torchbonsai.study.work import KINDS, Progress, Task, carried_out, config_from_json
from torchbonsai.study.worker import main
from torchbonsai.training.team import Team


def take_part(task: Task, store: Store, progress: Progress) -> None:
    """Do what all do; process 0 writes the record."""
    from lightning_fabric import Fabric  # needed by teams alone
    from lightning_fabric.plugins.environments import LightningEnvironment

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    numerics = config_from_json(KINDS[task.kind], task.config).numerics
    # Our own places, also under a scheduler that Fabric would ask.
    fabric = Fabric(
        accelerator=numerics.device, devices=numerics.devices, strategy="ddp", plugins=[LightningEnvironment()]
    )
    fabric.launch()
    team = Team(fabric)
    made = carried_out(task, store, progress, team)
    if team.rank == 0:
        store.save(task.key, *made)


if __name__ == "__main__":
    main(sys.argv[1:], take_part)
