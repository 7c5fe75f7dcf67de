"""Is our PPO the PPO of TRL 1.12.0, the last one that TRL had? One batch through both, compared to 1e-5.

    python3.11 -m venv build/trl && build/trl/bin/pip install -r benchmarks/peers/trl-1.12.0.txt
    .venv/bin/python benchmarks/peers/ppo.py build/trl [RESULT.json]

Ours gives the batch: answers of the built-in model in 32 bit, sampled by a policy that has moved since, so that ratios
and clips bind; and scores and values, drawn at random. TRL's own ``train()`` takes it from there (ppo_in_trl.py says
what is given to it). Printed and kept: the largest difference of each quantity as it is, and after TRL's choice in each
of :data:`DIFFERENCES` has been made by our own code too. Exit status 1 where the latter is above 1e-5.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ppo_batch import CASES, SETTINGS, Batch, Tensors, make_batch
from safetensors.torch import load_file

from rlhf_lite.engine import objectives, update
from rlhf_lite.engine.rollout import Rollout, logprobs_of

DIFFERENCES = {
    "score": "TRL adds the score one token after an answer's last (trl #3750), a token with a value of its own; we "
    "add it to the last token, and the value after it is 0, because the episode has ended. At γ = λ = 1 the "
    "advantages are the same; below, TRL's score reaches every token discounted once more. An answer cut at the limit "
    "has no room for that token, and there both agree as they are.",
    "whitening": "TRL divides advantages by the sample's standard deviation (n − 1), we by the batch's own (n).",
    "micro-batches": "TRL averages each micro-batch over its tokens, then the micro-batches: a token in a short answer "
    "weighs more, and the micro-batch's size changes the update. Ours weigh every token of a minibatch alike.",
    "padding": "TRL averages its ratio and approximate KL over padding too, where they are 1 and 0.",
    "estimator": "TRL's approximate KL is half the squared log-ratio, ours Schulman's k3.",
}
NOT_COMPARED = [
    "TRL masks by the padding id, we by length; no answer here holds that id.",
    "Both are given values: TRL trains a network for them by clipped regression on λ-returns, ours are a ridge "
    "regression of returns on frozen states, which tests/engine/test_ppo_reference.py holds to float64 least squares.",
    "Our reward model gives each token its own part of the score; here both have the score of a function, which comes "
    "whole at the end.",
    "TRL neither scales nor clips scores; both are given the same.",
    "TRL does not clip gradients, we hold their norm to 1; they are compared before that.",
    "TRL takes every epoch to its end, we leave it once the policy has moved by max_approx_kl.",
]
BECAUSE = {
    "rewards": ["score"],
    "raw advantages": ["score"],
    "returns": ["score"],
    "advantages": ["score", "whitening"],
    "policy loss": ["score", "whitening", "micro-batches"],
    "policy gradient": ["score", "whitening", "micro-batches"],
    "clip fraction": ["score", "micro-batches"],
    "ratio": ["padding"],
    "approximate KL": ["padding", "estimator"],
}
TOLERANCE = 1e-5


@dataclass
class Row:
    """One quantity: TRL's largest number, the largest difference as it is and with the choices of ``because``."""

    case: str
    what: str
    largest: float
    as_it_is: float
    with_their_choice: float
    because: list[str]


def main(environment: Path, result: Path) -> int:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # both on the CPU, so that no kernel's rounding is compared
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        batch = make_batch(folder)
        offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
        done = subprocess.run(
            [environment / "bin" / "python", Path(__file__).with_name("ppo_in_trl.py"), folder],
            env={**os.environ, **offline}, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr)
        theirs = {case: load_file(folder / f"{case}.safetensors") for case in CASES}
    rows = [row for case in CASES for row in compare(case, batch, theirs[case])]
    print(f"{'case':15} {'quantity':34} {'largest':>8} {'as it is':>8} {'adjusted':>8}")
    for row in rows:
        numbers = f"{row.largest:8.1e} {row.as_it_is:8.1e} {row.with_their_choice:8.1e}"
        print(f"{row.case:15} {row.what:34} {numbers}  {', '.join(row.because)}")
    write(result, batch, rows)
    return int(any(row.with_their_choice > TOLERANCE for row in rows))


def write(result: Path, batch: Batch, rows: list[Row]) -> None:
    """The table as JSON, a row a line."""
    head = {
        "compared": "rlhf-lite with TRL 1.12.0", "tolerance": TOLERANCE,
        "lengths": str(batch.rollout.lengths.tolist()), "ended": int(batch.rollout.ended.sum()),
        "differences": DIFFERENCES, "not compared": NOT_COMPARED,
    }  # fmt: skip
    lines = ",\n".join(f"  {json.dumps(vars(row))}" for row in rows)
    result.parent.mkdir(parents=True, exist_ok=True)
    opened = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    result.write_text(f'{opened},\n "rows": [\n{lines}\n ]\n}}\n')


def compare(case: str, batch: Batch, trl: Tensors) -> list[Row]:
    """Every quantity of one case; where only the micro-batches differ, only what they change."""
    groups = trl["micro_batches"].tolist()
    all_rows = [list(range(len(batch.rollout.prompts)))]
    theirs, ours = trl_numbers(batch, trl), our_numbers(batch, batch.rollout, all_rows, case)
    adjusted = our_numbers(batch, batch.longer, groups, case) | over_padding(batch)
    tokens = int(batch.rollout.response_mask.sum())
    bessel = (1 - 1 / tokens) ** 0.5
    for name in ("advantages", "policy loss", "policy gradient"):  # each is linear in the advantages
        adjusted[name] = adjusted[name] * bessel
    rows: list[Row] = []
    for name, number in theirs.items():
        because = [] if "cut answers" in name else BECAUSE.get(name.split(",")[0], [])
        if len(groups) > 1:
            if "micro-batches" not in because:
                continue
        else:
            because = [b for b in because if b != "micro-batches"]
        floor = 0.0 if "gradient" in name else 1.0
        found = [distance(numbers[name], number, floor) for numbers in (ours, adjusted)]
        largest, as_it_is, with_their_choice = (
            float(f"{x:.1e}") for x in (float(number.abs().max()), *found)
        )
        rows.append(Row(case, name, largest, as_it_is, with_their_choice, because))
    return rows


def our_numbers(batch: Batch, rollout: Rollout, groups: list[list[int]], case: str) -> Tensors:
    """Ours; losses and gradients averaged over ``groups`` of rows. TRL's place for the score is ``batch.longer``."""
    learner, real = batch.learner, batch.rollout.response_mask
    gamma, lam = CASES[case]["gamma"], CASES[case]["lam"]
    mask = rollout.response_mask
    rewards = objectives.token_rewards(rollout.scores, rollout.parts, rollout.kl, mask, SETTINGS.kl_coef)
    estimate = objectives.gae(rewards, batch.values, mask, gamma, lam)
    advantages = objectives.center_and_scale(estimate.advantages, real)
    told: list[dict[str, Any]] = []
    for rows in groups:
        policy = update.update_policy(learner, SETTINGS, batch.rollout, [rows], advantages, unmoved=False)
        told.append({
            "policy loss": policy["loss/policy_avg"], "policy gradient": flat(learner.gradients),
            "clip fraction": policy["policy/clipfrac_avg"], "ratio": policy["val/ratio"],
            "approximate KL": policy["policy/approxkl_avg"],
        })  # fmt: skip
    means = {name: torch.stack([torch.as_tensor(t[name]) for t in told]).mean(0) for name in told[0]}
    return {
        "log-probs": rollout.logprobs[real], "reference log-probs": rollout.reference[real], "token KL": rollout.kl,
        "answer KL": rollout.kl.sum(-1).mean(), **parted(batch, "rewards", rewards),
        **parted(batch, "raw advantages", estimate.advantages),
        **parted(batch, "returns", estimate.returns), "advantages": advantages[real], **means,
    }  # fmt: skip


def trl_numbers(batch: Batch, trl: Tensors) -> Tensors:
    """TRL's, by the same names."""
    real = batch.rollout.response_mask
    gradient = flat({name: tensor for name, tensor in trl.items() if name.startswith("gradient.")})
    return {
        "log-probs": trl["logprobs"][real], "reference log-probs": trl["ref_logprobs"][real], "token KL": trl["kl"],
        "answer KL": trl["metric.objective/kl"], **parted(batch, "rewards", trl["rewards"]),
        **parted(batch, "raw advantages", trl["returns"] - trl["values"]),
        **parted(batch, "returns", trl["returns"]), "advantages": trl["advantages"][real],
        "policy loss": trl["metric.loss/policy_avg"], "policy gradient": gradient,
        "clip fraction": trl["metric.policy/clipfrac_avg"], "ratio": trl["metric.val/ratio"],
        "approximate KL": trl["metric.policy/approxkl_avg"],
    }  # fmt: skip


def parted(batch: Batch, name: str, numbers: torch.Tensor) -> Tensors:
    """A (B, T) by where the score may lie: answers cut at the limit, answers that ended, the token after those."""
    real = batch.rollout.response_mask
    cut = real.all(-1)
    return {
        f"{name}, cut answers": numbers[cut],
        f"{name}, ended answers": numbers[real & ~cut[:, None]],
        f"{name}, the token after": numbers[batch.longer.response_mask & ~real],
    }


def over_padding(batch: Batch) -> Tensors:
    """Means over all places, padding too, of the ratio and of half the squared log-ratio."""
    rollout, real = batch.rollout, batch.rollout.response_mask
    rows = len(rollout.prompts)
    new = logprobs_of(batch.learner.base, "policy", rollout.prompts, rollout.completions, rows)
    moved = torch.zeros_like(rollout.logprobs)
    moved[real] = torch.cat(new) - rollout.logprobs[real]
    return {"ratio": moved.exp().mean(), "approximate KL": (moved**2).mean() / 2}


def flat(gradients: Tensors) -> torch.Tensor:
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def distance(found: torch.Tensor, theirs: torch.Tensor, at_least: float) -> float:
    """The largest difference, relative to the largest number where that is ``at_least`` so large."""
    assert found.shape == theirs.shape, (found.shape, theirs.shape)
    return float((found - theirs).abs().max()) / max(float(theirs.abs().max()), at_least)


if __name__ == "__main__":
    default = Path(__file__).parent.parent / "results" / "ppo_against_trl.json"
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else default))
