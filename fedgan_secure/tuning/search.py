"""The search itself: trials out to worker processes, scores into an Optuna study, killed and resumed at will.

This process alone writes the study. A trial that has begun keeps its number and its setting for good, and so do the
trials of a grid or of independent draws from the start: a resumed search tries the same ones. On patients the whole
search is reserved before the first trial (`charge`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from fedgan_audits.accounting import selection
from fedgan_audits.ledger import Ledger
from fedgan_secure.errors import FedganError
from fedgan_secure.federation import Display
from fedgan_secure.processors import processors
from fedgan_secure.storage import sole_owner
from fedgan_secure.tuning import charge as charges
from fedgan_secure.tuning import space as spaces
from fedgan_secure.tuning.charge import Charge
from fedgan_secure.tuning.directory import SearchDirectory
from fedgan_secure.tuning.experiment import SHAPES, Experiment
from fedgan_secure.tuning.sensitive import check_public
from fedgan_secure.tuning.space import Value
from fedgan_secure.tuning.trial import Job
from fedgan_secure.tuning.workers import COMMAND, Worker

STUDY = "search"
RESULTS = "results"
FREE = {
    "phantoms": "This search is free: it trains on phantoms, drawn images of nobody.",
    "public": "This search is free: it trains on images that were declared public.",
}


class TrialFailed(FedganError):  # noqa: N818 - named after what happened
    """A trial could not be run for a reason that the next one would meet as well."""

    def __init__(self, message: str, *, hint: str, exit_code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


@dataclass(frozen=True)
class SearchOutcome:
    """How a search ended: `tried` trials of which `scored` have a score; None for both where their number is secret."""

    tried: int | None
    scored: int | None


def begin(experiment: Experiment, folder: Path) -> SearchDirectory:
    """Make a search's folder and fix its trials; nothing is charged yet.

    Raises:
        InputError, BudgetRefused: the folder is taken, or what is called public is not.
    """
    experiment = experiment.model_copy(update={"base": None, "settings": experiment.raw_settings()})  # as it stands now
    begin_charge(experiment)  # refuse what cannot be accounted before anything is written
    directory = SearchDirectory.create(folder)
    directory.write(
        {
            "search_id": secrets.token_hex(8),
            "experiment": experiment.model_dump(mode="json"),
            "draws": experiment.seed,  # as --dry-run draws them; those of a winner alone are drawn in secret, below
            "status": "prepared",
        }
    )
    return directory


def begin_charge(experiment: Experiment) -> Charge | None:
    """What a search would be charged, or None where it is free. Raises as begin, and writes nothing."""
    check_public(experiment)
    return charge_of(experiment, _fixed(experiment, experiment.seed)) if experiment.charged else None


def charge_of(experiment: Experiment, planned: Sequence[dict[str, Value]] | None) -> Charge:
    """As charge.charge_of: a secret number of draws is charged for the whole space, never for what was drawn."""
    return charges.charge_of(experiment, None if experiment.winner_alone else planned)


def _fixed(experiment: Experiment, draws: int) -> list[dict[str, Value]] | None:
    """The settings of a search that fixes them beforehand; None for one that learns or whose number is drawn."""
    if experiment.search.method == "grid":
        return spaces.product(experiment.parsed)
    if experiment.search.method == "random" and experiment.trials is not None:
        return spaces.draws(experiment.parsed, experiment.trials, draws)
    return None


def carry_on(
    directory: SearchDirectory, display: Display, *, command: Sequence[str] = COMMAND, cores: int | None = None
) -> SearchOutcome:
    """Reserve what is to be reserved, then try everything that is left.

    Args:
        directory: of `begin`.
        display: where progress goes; with winner_alone it is told nothing that depends on the number of trials.
        command: the worker, replaced in tests.
        cores: how many there are, or None to ask the machine.

    Raises:
        BudgetRefused (exit code 3): before the first trial.
        TrialFailed, WorkerEnded, InputError: a trial cannot be run; the search can be resumed.
        KeyboardInterrupt: interrupted; the search can be resumed.
    """
    with sole_owner(directory.lock, f"the search {directory.root}"):
        return _Search(directory, display, command, cores or processors()).carry_on()


def experiment_of(info: dict[str, Any]) -> Experiment:
    """The experiment that a search was begun with."""
    return Experiment.checked({k: v for k, v in info["experiment"].items() if v is not None}, "search.json")


class _Search:
    def __init__(self, directory: SearchDirectory, display: Display, command: Sequence[str], cores: int) -> None:
        self.directory, self.display = directory, display
        self.info = directory.read()
        self.experiment = experiment_of(self.info)
        self.draws = int(self.info["draws"])
        count = self.experiment.search.workers or cores
        threads = max(1, cores // count)
        self.workers = [Worker(command, threads, directory.log(number + 1)) for number in range(count)]
        self.allowed: dict[tuple[tuple[str, Value], ...], tuple[float, float, int]] = {}

    def carry_on(self) -> SearchOutcome:
        if self.info["status"] == "complete":
            self.display.note("the search was complete already; nothing was done")
        else:
            if self.info["status"] == "running":
                self.info = {**self.info, "cut": True}
            self._pay()
            self.info = {**self.info, "status": "running"}
            self.directory.write(self.info)
            study = open_study(self.directory, self.experiment, self.draws)
            self._fill(study)
            self._try_all(study)
            self._end()
        trials = open_study(self.directory, self.experiment, self.draws).trials
        if self.experiment.winner_alone:
            return SearchOutcome(None, None)
        return SearchOutcome(len(trials), sum(trial.value is not None for trial in trials))

    def _pay(self) -> None:
        if not self.experiment.charged:
            check_public(self.experiment)  # again: files may have come since
            self.display.note(FREE[self.experiment.search.trains_on])
            return
        planned = _fixed(self.experiment, self.draws)
        charge = charge_of(self.experiment, planned)
        charges.reserve(self.experiment, charge, str(self.info["search_id"]))
        self.display.note(charge.sentence())
        self.info = {**self.info, "status": "reserved", "charge": charge.figures()}
        self.directory.write(self.info)

    def _fill(self, study: Any) -> None:
        """Fix the trials, once: all in the study, or none yet."""
        if self.info.get("filled"):
            return
        settings = _fixed(self.experiment, self.draws)
        if self.experiment.winner_alone:
            search = self.experiment.search
            if "secret" not in self.info:  # drawn once: a kill between the lines below does not draw again
                count = selection.draw_trials(search.mean_trials or 1.0, SHAPES[search.distribution])
                self.info = {**self.info, "secret": {"trials": count, "draws": secrets.randbits(64)}}
                self.directory.write(self.info)
            secret = self.info["secret"]
            settings = spaces.draws(self.experiment.parsed, int(secret["trials"]), int(secret["draws"]))
        for setting in (settings or [])[len(study.trials) :]:
            study.enqueue_trial(setting, skip_if_exists=False)
        self.info = {**self.info, "filled": True}
        self.directory.write(self.info)

    def _try_all(self, study: Any) -> None:
        from optuna.trial import TrialState

        left = [trial.number for trial in study.trials if trial.state == TrialState.RUNNING]
        idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self.workers:
            idle.put(worker)
        running: dict[Future[dict[str, Any]], int] = {}
        pool = ThreadPoolExecutor(len(self.workers))
        try:
            while True:
                while len(running) < len(self.workers):
                    number = left.pop(0) if left else self._next(study)
                    if number is None:
                        break
                    setting = self._setting(study, number)
                    running[pool.submit(self._evaluate, idle, number, setting)] = number
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    self._tell(study, running.pop(future), future.result())
                self._progress(study)
        finally:
            for worker in self.workers:
                worker.close()
            pool.shutdown(wait=True, cancel_futures=True)

    def _next(self, study: Any) -> int | None:
        """The number of the next trial, its setting chosen; None where all have begun."""
        from optuna.trial import TrialState

        waiting = any(trial.state == TrialState.WAITING for trial in study.trials)
        learns = self.experiment.search.method == "bayes"
        if not waiting and not (learns and len(study.trials) < (self.experiment.trials or 0)):
            return None
        return int(study.ask(spaces.distributions(self.experiment.parsed)).number)

    def _setting(self, study: Any, number: int) -> dict[str, Value]:
        """A trial's setting; what a kill kept from being written is chosen now."""
        import optuna

        found = study.trials[number]
        space = self.experiment.parsed
        if set(found.params) != set(space):
            trial = optuna.trial.Trial(study, found._trial_id)
            for key, distribution in spaces.distributions(space).items():
                trial._suggest(key, distribution)
            found = study.trials[number]
        return {key: spaces.KEYS[key](found.params[key]) for key in space}

    def _evaluate(self, idle: SimpleQueue[Worker], number: int, setting: dict[str, Value]) -> dict[str, Any]:
        """All seeds of one trial, one after the other, by a worker that is free."""
        worker = idle.get()
        results = []
        try:
            for seed in range(1, self.experiment.search.seeds + 1):
                answer = worker.ask(self._job(number, setting, seed).to_json())
                if "result" not in answer:
                    return answer
                results.append(answer["result"])
        finally:
            idle.put(worker)
        return {"results": results}

    def _job(self, number: int, setting: dict[str, Value], seed: int) -> Job:
        own = self.experiment.seed * 1000 + seed
        settings = self.experiment.trial_settings(setting, own)
        return Job(
            folder=self.directory.run(number, seed),
            settings=settings.model_dump(mode="json", exclude_none=True),
            objective=self.experiment.objective.model_dump(mode="json"),
            seed=own,
            allowed=self._allowed(setting) if self.experiment.charged else None,
            patients_of=self.experiment.patients.site_dir.resolve() if self.experiment.patients is not None else None,
        )

    def _allowed(self, setting: dict[str, Value]) -> tuple[float, float, int]:
        key = tuple(sorted(setting.items()))
        if key not in self.allowed:
            one = charges.trial_cost(self.experiment.trial_settings(setting, self.experiment.seed), 1).setting
            self.allowed[key] = (one.sampling_probability, one.noise_multiplier, one.steps)
        return self.allowed[key]

    def _tell(self, study: Any, number: int, answer: dict[str, Any]) -> None:
        from optuna.trial import TrialState

        if "error" in answer:
            raise TrialFailed(
                f"a trial could not be run: {answer['error']}",
                hint=answer["hint"] or "resume the search when it is put right",
                exit_code=int(answer["exit_code"]),
            )
        trial_id = study.trials[number]._trial_id
        storage = study._storage
        if "infeasible" in answer:
            storage.set_trial_user_attr(trial_id, "infeasible", answer["infeasible"])
            study.tell(number, state=TrialState.FAIL)
            return
        storage.set_trial_user_attr(trial_id, RESULTS, answer["results"])
        scores = [result["score"] for result in answer["results"] if result["score"] is not None]
        if len(scores) < len(answer["results"]):
            study.tell(number, state=TrialState.FAIL)
        else:
            study.tell(number, sum(scores) / len(scores))

    def _progress(self, study: Any) -> None:
        if self.experiment.winner_alone:
            return
        done = sum(trial.state.is_finished() for trial in study.trials)
        self.display.update("trials", done, self.experiment.trials or done)

    def _end(self) -> None:
        self.info = {**self.info, "status": "complete"}
        if self.experiment.charged and not self.experiment.winner_alone and self.experiment.patients is not None:
            # Of a winner alone no time of ending: from how long it took, the number of trials could be guessed.
            run_id = charges.search_run_id(str(self.info["search_id"]))
            for name in charges.names_of(self.experiment.settings_of({})):
                path = self.experiment.patients.site_dir / name / "ledger.sqlite"
                with Ledger.open(path, hospital=name) as ledger:
                    ledger.record("search_finished", run_id, charges.SEARCH_ROUND, {})
        self.directory.write(self.info)


def open_study(directory: SearchDirectory, experiment: Experiment, seed: int) -> Any:
    """The study of a search, made on the first call (mode 0600)."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it would print settings and scores
    if not directory.study.exists():
        os.close(os.open(directory.study, os.O_CREAT | os.O_RDWR, 0o600))
    storage = optuna.storages.RDBStorage(f"sqlite:///{directory.study.resolve()}")
    sampler: Any = optuna.samplers.RandomSampler(seed=seed % 2**32)
    if experiment.search.method == "bayes":
        begun = 0
        names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
        if STUDY in names:
            begun = len(optuna.load_study(study_name=STUDY, storage=storage).trials)
        # A resumed sampler does not repeat the coins of the first.
        startup = min(10, max(3, (experiment.trials or 0) // 3))
        sampler = optuna.samplers.TPESampler(seed=(seed + begun) % 2**32, n_startup_trials=startup, constant_liar=True)
    return optuna.create_study(
        study_name=STUDY,
        storage=storage,
        sampler=sampler,
        direction="minimize" if experiment.minimise else "maximize",
        load_if_exists=True,
    )
