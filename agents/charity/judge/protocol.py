"""What the vault asks the judge, and what it answers: one JSON object per line in each direction.

(start)                                                          {"ready": true, "holdout": {"sha256", "examples"}}
{"model": PATH}                                                  {"metrics": {"loss", "accuracy", …}}
{"mix": {"current": PATH, "candidate": PATH, "shares": [S, …], "out": PATH|null, "base": PATH|null
         and where steps of other sites are in the mean "others": [[CANDIDATE, BASE], …]}}
{"metrics": [{…}, …]}
{"round": {"policy": TEXT, "base": PATH, "updates": [[PATH, EXAMPLES], …], "server": [PATH, …], "out": PATH}}
{"metrics": {…}, "shares": [S, …], "server": N}
{"assess": {"model": PATH, "splits": [NAME, …], "threshold": P|null, "temperature": T|null}}
{"assessed": {NAME: {"loss", …, "auc_interval": [LOW, HIGH]|null, "calibration_error", "calibration_interval", …}, …}}
{"check": {"model": PATH, "current": PATH, "first": PATH, "plan": {…}}}          {"sound": BOOL, "text": TEXT}
{"genesis": {"out": PATH, "seed": N, "plan": {…}, "epochs": N, "weights": PATH|null}}
{"metrics": {…}, "examples": N, "weights": {…}, "told": LINE, "label_counts": [N, …]} or {"unfit": reason}
whatever it cannot do                                            {"error": reason}, of a disk with {"errno": N}
"""

from __future__ import annotations

from pathlib import Path

MAX_LINE_BYTES = 1 << 20


def server_files(out: Path) -> list[Path]:
    """Where the judge leaves a server optimizer's state beside a round's result: at most two sets of tensors."""
    return [out.with_suffix(f".server{number}.safetensors") for number in range(2)]
