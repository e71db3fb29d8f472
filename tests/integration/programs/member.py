"""A measured process beside others.

The first line of input starts it with a stage, each further line makes it print the joules of the stage, and `end`
ends it. Arguments: the powercap root; `busy`, `children` or `idle`. At the end it prints as JSON the joules of the
process, its embodied grams, and the counters before and after its start and its end.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import carbon_otel

root, kind = sys.argv[1:]
CHILD = [sys.executable, "-S", "-c", "import time\nwhile time.process_time() < 0.1: pass"]
ended = threading.Event()


def counters() -> float:
    return sum(int((Path(root) / f"intel-rapl:{n}" / "energy_uj").read_text()) for n in range(2)) / 1e6


def work() -> None:
    while not ended.is_set():
        if kind == "busy":
            sum(range(2000))
        elif kind == "children":
            subprocess.run(CHILD, check=True)
        else:
            time.sleep(0.05)


sys.stdin.readline()
around = [counters()]
carbon_otel.instrument(zone="FR", powercap_root=root, interval_s=0.25)
around.append(counters())
with carbon_otel.stage("training") as stage:
    worker = threading.Thread(target=work)
    worker.start()
    print("open", flush=True)
    for line in sys.stdin:
        if line == "end\n":
            break
        print(stage.footprint.energy_j, flush=True)
    ended.set()
    worker.join()
around.append(counters())
total = carbon_otel.footprint()
around.append(counters())
carbon_otel.uninstrument()
figures = {"energy_j": total.energy_j, "embodied_g": total.embodied_g, "counters": around}
print(json.dumps(figures), flush=True)
