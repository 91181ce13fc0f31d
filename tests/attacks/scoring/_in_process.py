"""An evaluator in the process that trains, as many are: prints bits per byte of the script.

python _in_process.py VIEW SOURCE VAL_BIN
"""

import json
import sys
import time

import numpy as np


sys.path.insert(0, sys.argv[1])

import torch
from torch.nn import functional as F

from frozen_env.clock import BudgetClock
from frozen_env.session import open_session


torch.set_num_threads(1)
torch.manual_seed(0)
start = time.monotonic()
open_session(BudgetClock(start, start + 60.0, 0.1, 1e12), 0)
module = type(sys)("train")
sys.modules["train"] = module
exec(compile(open(sys.argv[2]).read(), "train.py", "exec"), module.__dict__)
model = module.build_model()
module.train(model)
model.eval()
tokens = torch.from_numpy(np.fromfile(sys.argv[3], dtype=np.int16)[:1600].astype(np.int64))
window = tokens[: len(tokens) // 33 * 33].view(-1, 33)
with torch.inference_mode():
    loss = F.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
print(json.dumps({"nats": float(loss), "seconds": time.monotonic() - start}))
