"""What the vault asks the judge, and what it answers: one JSON object per line in each direction.

(start)                                                          {"ready": true, "holdout": {"sha256", "examples"}}
{"model": PATH}                                                  {"metrics": {"loss", "accuracy", …}}
{"model": PATH, "against": PATH}                                 {"metrics": {"loss", "accuracy", …, "standard_error"}}
{"mix": {"current": PATH, "candidate": PATH, "shares": [S, …], "out": PATH|null, "base": PATH|null
         and where steps of other sites are in the mean "others": [[CANDIDATE, BASE], …]}}
{"metrics": [{…}, …]}
{"round": {"policy": TEXT, "base": PATH, "updates": [[PATH, EXAMPLES], …], "server": [PATH, …], "out": PATH}}
{"metrics": {…}, "shares": [S, …], "server": N}
{"assess": {"model": PATH, "splits": [NAME, …], "threshold": P|null, "temperature": T|null}}
{"assessed": {NAME: {"loss", …, "auc_interval": [LOW, HIGH]|null, "curve": [[P, SHARE, SHARE], …]|null,
              "calibration_error", "calibration_interval", …}, …}}
{"check": {"model": PATH, "current": PATH, "first": PATH, "plan": {…}}}          {"sound": BOOL, "text": TEXT}
{"genesis": {"out": PATH, "seed": N, "plan": {…}, "epochs": N, "weights": PATH|null, "policy": TEXT}}
{"metrics": {…}, "examples": N, "weights": {…}, "told": LINE, "label_counts": [N, …], "policy": TEXT,
 "unlabelled": TEXT}
or {"unfit": reason}
"mix" and "round" with "paired": true                            their metrics have "standard_error", too
{"spent": {"charges": [[NOISE, RATE, STEPS], …], "delta": D}}    {"spent": EPSILON}
under `split` also "turn", "welcome", "turned", "join", "closed"  see `turns`
whatever it cannot do                                            {"error": reason}, of a disk with {"errno": N}

`standard_error` is that of the difference between the accuracies of two models, paired over the images of the holdout,
see `rules.gate`: of a model against another one, of a mix against the current model, of a round's result against the
model that it started from.
"""

from __future__ import annotations

from pathlib import Path

MAX_LINE_BYTES = 1 << 20


def server_files(out: Path) -> list[Path]:
    """Where the judge leaves a server optimizer's state beside a round's result: at most two sets of tensors."""
    return [out.with_suffix(f".server{number}.safetensors") for number in range(2)]
