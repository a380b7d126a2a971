"""What runs of Ray's own: processes that load what a trial needs before there is one, and none that nothing asks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.jobs.conftest import Home

pytestmark = pytest.mark.slow

TRIAL = """
import json, os, sys, time
import psutil
from anon_tune.settings import Settings
from anon_tune.workers.driver import cluster

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])

class Looks:
    def look(self):
        return os.getpid(), "anon_tune.workers.trial.loaded" in sys.modules

def idle():
    found = psutil.Process().children(recursive=True)
    return {process.pid for process in found if process.name().startswith("ray::IDLE")}

def unused():
    words = [word for process in psutil.Process().children(recursive=True) for word in process.cmdline()]
    return [word for word in words if word.endswith(("dashboard.py", "monitor.py"))]

with cluster.ahead(Settings.from_environment()):
    while len(waiting := idle()) < len(os.sched_getaffinity(0)):
        time.sleep(0.05)
    nobody_asks = unused()
    with cluster.connected(Settings.from_environment()):
        import ray
        from ray.tune.execution.class_cache import _ActorClassCache
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
        group = ray.util.placement_group([{"CPU": 1}] * len(waiting))
        assert group.wait(60)
        limit = time.monotonic() + 2.0
        while (stay := idle() == waiting) and time.monotonic() < limit:
            time.sleep(0.05)
        cluster.give_trials_loaded_processes()
        actor = _ActorClassCache().get(Looks).options(
            num_cpus=1, scheduling_strategy=PlacementGroupSchedulingStrategy(group)
        ).remote()
        pid, loaded = ray.get(actor.look.remote())
print(json.dumps({"stay": stay, "waited": pid in waiting, "loaded": loaded, "unused": nobody_asks}))
"""


def test_a_trial_is_given_to_a_process_that_was_there_before_and_has_loaded(home: Home) -> None:
    """Tune's actors have an environment of their own, for which Ray would start new processes.

    And it takes the CPUs for them before it asks, upon which Ray would end those that wait. And Ray by itself
    starts three Python processes that nothing here asks.
    """
    done = subprocess.run([sys.executable, "-c", TRIAL], env=home.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "stay": True,
        "waited": True,
        "loaded": True,
        "unused": [],
    }
