"""The files that start a training on a cluster, as far as that can be seen without one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import trainer
from tests.conftest import ROOT

CLUSTER = ROOT / "deploy" / "cluster"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="bash")
# stand-ins: what they are called with goes to a file
STAND_INS = {
    "scontrol": 'echo "scontrol $*" >>"$LOG"; [ "$1" != show ] || printf "first\\nsecond\\n"',
    "scancel": 'echo "scancel $*" >>"$LOG"; kill -TERM "$(cat "$LOG.step")"',
    "srun": 'echo "srun $* NNODES=$NNODES NPROC=$NPROC RENDEZVOUS=$RENDEZVOUS" >>"$LOG"\n'
    'echo $$ >"$LOG.step"\ntrap "echo saved >>\\"$LOG\\"; exit 143" TERM\n'
    'if [ "$LASTS" ]; then while true; do sleep 0.05; done; fi\nexit 7',
}


def require_training(words: list[str]) -> None:
    """Fail where words are no command that trains, and goes on when it is started again."""
    assert words[:2] == ["bash", "train.sh"]
    parsed = trainer.parse_args(words[2:])
    assert parsed.resume == trainer.AUTO and parsed.checkpoint_path.is_absolute()


def in_bash(text: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=environment)


def test_the_kubernetes_job_runs_the_command_on_as_many_pods_as_it_says():
    service, job = yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text())
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    require_training(container["command"])
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert int(values["NNODES"]) == spec["completions"] == spec["parallelism"]
    assert int(values["NPROC"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    # the name of the first pod of an indexed job, in the service
    subdomain, name = spec["template"]["spec"]["subdomain"], job["metadata"]["name"]
    assert values["RENDEZVOUS"].split(":")[0] == f"{name}-0.{subdomain}"
    assert subdomain == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    mounts = {entry["name"] for entry in container["volumeMounts"]}
    assert mounts == {entry["name"] for entry in spec["template"]["spec"]["volumes"]}


def test_the_skypilot_task_runs_the_command_where_the_first_machine_is():
    task = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
    shown = task["run"].replace("bash train.sh", 'echo "$NNODES $NPROC $RENDEZVOUS" train.sh')
    given = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NUM_GPUS_PER_NODE": "8"}
    given |= {"SKYPILOT_TASK_ID": "run", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    done = in_bash(shown, **given, PATH=os.environ["PATH"])
    machines, processes, address, *words = done.stdout.split()
    assert (machines, processes, address) == ("2", "8", "10.0.0.1:29400"), done.stderr
    require_training(["bash", *words])
    assert task["num_nodes"] == 2


def start_slurm(folder: Path, **environment: str) -> subprocess.Popen:
    """The Slurm script with stand-ins for Slurm's commands."""
    for name, text in STAND_INS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    values = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "17", "SLURM_NNODES": "2"}
    values |= {"SLURM_JOB_NODELIST": "machine[1-2]", "SLURM_GPUS_ON_NODE": "8"}
    values |= {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(folder / "log")}
    flags = ["--training_dataset_path", "/shared/good", "--checkpoint_path", "/shared/runs"]
    command = ["bash", str(CLUSTER / "train.slurm"), *flags]
    return subprocess.Popen(command, env=values | {"LASTS": ""} | environment)


def test_the_slurm_script_runs_the_command_and_hands_its_failure_on(tmp_path):
    assert start_slurm(tmp_path).wait(30) == 7
    said = (tmp_path / "log").read_text().splitlines()
    command, _, environment = said[1].removeprefix("srun ").partition(" NNODES=")
    assert said[0] == "scontrol show hostnames machine[1-2]"
    assert environment == "2 NPROC=8 RENDEZVOUS=first:29400"
    require_training(command.split())
    assert len(said) == 2  # nothing is queued again that failed by itself


def test_before_its_time_is_over_the_slurm_job_saves_and_is_queued_again(tmp_path):
    process = start_slurm(tmp_path, LASTS="yes")
    deadline = time.monotonic() + 30
    while not (tmp_path / "log.step").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)  # until the stand-in has set its trap
    process.send_signal(signal.SIGUSR1)
    process.wait(30)
    said = (tmp_path / "log").read_text().splitlines()
    assert said[2:] == ["scancel --signal=TERM 17", "saved", "scontrol requeue 17"]


def test_several_machines_need_an_address_to_meet_at():
    command = ["bash", "train.sh", "--training_dataset_path", "nowhere"]
    environment = os.environ | {"NNODES": "2", "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "RENDEZVOUS: found nothing, expected HOST:PORT" in done.stderr
