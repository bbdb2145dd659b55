"""Every mistake on the command line is told in one sentence, before Hydra, torch and any folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException

from cvae.cli import composition, precheck
from cvae.cli.help import GROUPS
from cvae.errors import UserError
from cvae.runs.compatibility import differences
from tests.helpers import JARGON, choices


@pytest.fixture
def refused(tmp_path, monkeypatch) -> Callable[..., str]:
    """What `train.py` answers to a wrong command; it may create nothing and must not talk like Hydra."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CVAE_DATA", raising=False)

    def ask(*arguments: str) -> str:
        before = listing()
        with pytest.raises(UserError) as refusal:
            precheck.check(arguments)
        assert listing() == before
        answer = str(refusal.value)
        assert answer and not JARGON.search(answer), answer
        return answer

    def listing() -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}

    return ask


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "remedy"])
def test_unknown_choice(group, refused):
    for value in ("typo", "null")[: 1 if group == "experiment" else 2]:  # there may be none of that
        said = refused(f"{group}={value}")
        assert said == f"{group}={value}: no such choice, {group} is one of {', '.join(choices(group))}"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("remedy=[typo]", "remedy=typo: no such choice, remedy is one of aggressive, batch_norm,"),
        ("remedy=[skip,1]", "remedy=[skip,1]: no such choice, remedy is one of aggressive, batch_norm,"),
        ("remedy=null", "remedy=null: no such choice, remedy is one of aggressive, batch_norm,"),
        (
            "experiment=typo",
            "experiment=typo: no such choice, experiment is one of cycles, lr_vs_beta,",
        ),
        ("experiment=original/typo", "experiment=original/typo: no such choice, experiment is one of"),
        (
            "schedul=cyclical",
            "unknown key schedul, did you mean schedule? (keys: continue_beta, continue_from,",
        ),
        ("nam=x", "unknown key nam, did you mean name? (keys: "),
        ("schedule.ratoi=1", "unknown key schedule.ratoi, did you mean schedule.ratio? (keys of sch"),
        ("+schedule.ratoi=1", "unknown key schedule.ratoi, did you mean schedule.ratio? (keys of sch"),
        ("++schedule.ratoi=1", "unknown key schedule.ratoi, did you mean schedule.ratio? (keys of sch"),
        ("schedule={ratoi:1}", "unknown key schedule.ratoi, did you mean schedule.ratio? (keys of sch"),
        ("steps=3", "unknown key steps, did you mean train.steps?"),
        ("hydra.foo=1", "unknown key hydra.foo (keys of hydra: "),
        ("hydra.run.foo=1", "unknown key hydra.run.foo (keys of hydra.run: dir)"),
        ("hydra.job.env_set.A=1", "unknown key hydra.job.env_set.A (hydra.job.env_set has no keys)"),
        ("hydra.job.num=x", "Error merging override hydra.job.num=x: Value 'x' of type 'str' could not be"),
        ("+hydra.job.env_set.A=1 steps=3", "unknown key steps, did you mean train.steps?"),
        ("++seed=1 steps=3", "unknown key steps, did you mean train.steps?"),
        ("schedule=none schedule.ratio=1", "unknown key schedule.ratio (schedule=none has no keys)"),
        ("dataset.path=/x", "unknown key dataset.path (keys of dataset=toy: copies, draws, sampler,"),
        ("~train", "train is missing"),
        ("~schedule", "schedule is missing"),
        ("+task=ptb", "+task=ptb: task is chosen without a +; task is one of dialogs, ptb"),
        ("++lr=constant", "++lr=constant: lr is chosen without a +; lr is one of constant, cosine"),
        ("schedule=[constant,cyclical]", "schedule=[constant,cyclical]: a run takes one choice, not a"),
        ("experiment=[toy,cycles]", "experiment=[toy,cycles]: a run takes one choice, not a list; experi"),
        (
            "schedule.name=constant",
            "schedule.name=constant: schedule is chosen with schedule=…, one of constant, cyclical, ",
        ),
        ("train=", "train must be a group of keys, found ''"),
        ("name=../x", "name must be a relative path of letters, digits, '.', '_' and '-'"),
        ("name='${foo}'", "name has no value: Interpolation key 'foo' not found"),
        ("hydra.run.dir='${foo}'", "hydra.run.dir has no value: Interpolation key 'foo' not found"),
        ("hydra.run.dir=", "hydra.run.dir must name the folder of the run, found nothing"),
        ("hydra/launcher=typo", "hydra/launcher=typo: no such choice, hydra/launcher is one of basic"),
        ("hydra/launcher=true", "hydra/launcher=true: Hydra cannot compose this: Config group override"),
        ("~seed seed=3", "seed cannot be set: conf/config.yaml has no line for it, with its default"),
        ("name=toy seed=0,1", "seed=0,1 lists several values: add -m to run one job for each, or write"),
        (
            "-m seed=1,1",
            "two jobs of this sweep would write to outputs/toy/seed-1: 'seed=1' and 'seed=1'",
        ),
        ("-m seed=0,1,-2", "seed must be >= 0 and < 9223372036854775808, found -2 (in the job seed=-2)"),
        ("-m seed=interval(0,9)", "seed=interval(0,9): only a search (hydra/sweeper=optuna) takes an"),
        ("-m lr=constant,typo", "lr=typo: no such choice, lr is one of constant, cosine_restarts,"),
        ("-m lr=constant,null", "lr=null: no such choice, lr is one of constant, cosine_restarts,"),
        ("schedule.ratio=[", "schedule.ratio=[ cannot be read: write key=value, close brackets and"),
        ("schedule.ratio='", "schedule.ratio=' cannot be read: write key=value, close brackets and"),
        ("name=a=b", "name=a=b cannot be read: write key=value, close brackets and quotes"),
        ("schedule", "'schedule' sets nothing: write key=value, without spaces around the ="),
        ("=5", "'=5' sets nothing: write key=value, without spaces around the ="),
        ("--config-dir nope", "--config-dir must be a folder of configurations, found no folder nope"),
        ("--config-name=nope", "unrecognized arguments: --config-name=nope; keys are set as key=value"),
        ("--schedule=none", "unrecognized arguments: --schedule=none; keys are set as key=value,"),
        ("--cfg", "argument --cfg/-c: expected one argument; keys are set as key=value"),
        ("--cfg job -m", "argument --multirun/-m: not allowed with argument --cfg/-c; keys are set"),
        ("--resolve", "--resolve goes with --cfg only"),
        ("--cfg job seed=-1", "seed must be >= 0 and < 9223372036854775808, found -1"),
    ],
)
def test_mistakes(command, said, refused):
    answer = refused(*command.split(" "))
    assert answer.startswith(said) and len(answer.splitlines()) == 1


@pytest.mark.parametrize(
    "advice",
    [
        *(
            "See https://hydra.cc/docs/upgrades for details",
            "To append to your default list use +lr=constant",
        ),
        *("Config search path:", "provider=main, path=file:///conf", "full_key: hydra.job.num"),
        *("object_type=JobConf", "reference_type=JobConf"),
    ],
)
def test_what_hydra_says_of_itself_is_left_out(advice):
    assert composition.sentence(HydraException(f"No such thing.\n\t{advice}")) == "No such thing"


def test_each_of_several_problems_has_a_line(refused):
    said = refused(
        "train.batch_size=0", "train.clip=-1", "schedule=cyclical", "schedule.ratio=2"
    ).splitlines()
    assert sorted(line.partition("=")[0].split()[0] for line in said) == [
        "schedule.ratio",
        "train.batch_size",
        "train.clip",
    ]


def test_a_sweep_of_one_job_does_not_name_it(refused):
    assert refused("-m", "seed=-2").splitlines() == ["seed must be >= 0 and < 9223372036854775808, found -2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {stepz: 3}", "unknown key train.stepz, did you mean train.steps? (keys of train: "),
        ("train: {steps: -3}", "train.steps must be >= 1, found -3"),
        ("train: 3", "train must be a group of keys, found 3"),
        ("defaults: [override /lr: typo]", "lr=typo: no such choice, lr is one of constant, cosine"),
        ("train: {steps: [3}", "while parsing a flow sequence"),
        ("defaults: [/nope]", "In 'experiment/mine': Could not load 'nope'"),  # in conf/, not in a group
        ("defaults: [/]", "In 'experiment/mine': Could not load ''"),
        ("defaults: [3]", "experiment=mine: Hydra cannot compose this: Unsupported type in defaults"),
        ("defaults: [/experiment: mine]", "experiment=mine: Hydra cannot compose this: maximum recursion"),
        ("hydra: null", "experiment=mine: Hydra cannot compose this: "),
        ("hydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,-1'}}}", "seed must be >= 0 and < 9223"),
        (
            "hydra: {mode: MULTIRUN, sweeper: {params: {sed: '0,1'}}}",
            "unknown key sed, did you mean seed?",
        ),
    ],
)
def test_mistakes_in_an_experiment_file(text, said, refused, tmp_path):
    file = tmp_path / "it's mine" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"# @package _global_\nname: mine\n{text}\n", encoding="utf-8")
    answer = refused("--config-dir", "it's mine", "experiment=mine")
    assert answer.startswith(said) and "the groups are" not in answer


def test_the_command_line_wins_over_what_an_experiment_sweeps(refused, tmp_path, monkeypatch):
    file = tmp_path / "own" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    swept = "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,-1'}}}"
    file.write_text(f"# @package _global_\nname: mine\n{swept}\n", encoding="utf-8")
    mine = ("--config-dir", str(file.parents[1]), "experiment=mine")
    assert refused(*mine).startswith("seed must be >= 0")
    assert refused(*mine, "seed=-2").startswith("seed must be >= 0 and < 9223372036854775808, found -2")
    monkeypatch.chdir(tmp_path)
    assert len(precheck.check([*mine, "seed=3,4,5"]).jobs) == 3


@pytest.mark.parametrize(
    ("default", "said"),
    [
        ("override /shedule: none", "Could not override 'shedule'. Nothing of that name is chosen"),
        ("/shedule: none", "Could not find 'shedule/none'"),
    ],
)
def test_an_unknown_group_in_an_experiment_file(default, said, refused, tmp_path):
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    file.write_text(f"# @package _global_\ndefaults:\n  - {default}\n", encoding="utf-8")
    assert refused("--config-dir", str(tmp_path), "experiment=mine") == (
        f"In 'experiment/mine': {said}; the groups are {', '.join(sorted(GROUPS))}"
    )


@pytest.mark.parametrize(("group", "given"), [("experiment", "experiment=mine"), ("remedy", "remedy=[mine]")])
def test_a_file_of_overrides_without_its_first_line(group, given, refused, tmp_path):
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text("seed: 3\n", encoding="utf-8")
    said = refused("--config-dir", str(tmp_path), given)
    assert said == f"unknown key {group}: a file in conf/{group} starts with the line '# @package _global_'"


def test_a_folder_of_ones_own_adds_choices_and_replaces_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "schedule").mkdir(parents=True)
    for name in ("constant", "half"):
        (tmp_path / "own" / "schedule" / f"{name}.yaml").write_text("name: constant\nstop: 0.5\n")
    stops = [
        precheck.check([flag, "own", f"schedule={name}"]).schedule.stop
        for flag, name in (("--config-dir", "constant"), ("-cd", "half"))
    ]
    assert stops == [1.0, 0.5]


def test_a_key_for_which_a_choice_of_ones_own_has_no_line_cannot_be_set(refused, tmp_path):
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule" / "bare.yaml").write_text("name: constant\n")
    assert refused("--config-dir", str(tmp_path), "schedule=bare", "schedule.stop=0.5") == (
        "schedule.stop cannot be set: the file of the chosen schedule in conf/schedule has no line for it,"
        " with its default"
    )


def test_an_experiment_file_names_the_folder_of_its_runs(refused, tmp_path):
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\nseed: 3\n", encoding="utf-8")
    given = ["--config-dir", str(tmp_path), "experiment=mine"]
    assert refused(*given) == "experiment=mine sets no name: give its file a line such as name: mine"
    precheck.check([*given, "name=other"])


def test_the_third_job_is_found_before_the_first_starts(refused):
    said = refused("-m", "seed=0,1,2", "train.steps=5,6,x")
    assert said == (
        "train.steps must be a whole number >= 1 or null, found 'x' (in the job seed=0 train.steps=x)"
    )


def test_jobs_with_a_new_value_are_looked_at_first():
    jobs = [[f"a={a}", f"b={b}", f"c={c}"] for a in range(3) for b in range(4) for c in range(5)]
    numbered = precheck._new_values_first(jobs)
    assert sorted(numbered) == list(enumerate(jobs))
    ranked = [job for _, job in numbered]
    assert {value for job in ranked[: 3 + 4 + 5] for value in job} == {value for job in jobs for value in job}


def test_a_job_has_the_number_that_hydra_gives_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbered = "hydra.sweep.subdir=${hydra.job.num}"
    sweep = precheck.check(["-m", "seed=0,1", "train.steps=5,6", "train.batch_size=7,8", numbered])
    assert list(tmp_path.iterdir()) == []
    assert [overrides for _, overrides in sorted(sweep.jobs.items())] == [
        [f"seed={seed}", f"train.steps={steps}", f"train.batch_size={size}"]
        for seed in (0, 1)
        for steps in (5, 6)
        for size in (7, 8)
    ]


@pytest.mark.parametrize("command", ["seed=1", "-m seed=0,1,2", "--cfg job seed=1"])
def test_each_job_is_composed_and_checked_once(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = []
    for name in ("composed", "load"):
        work = getattr(precheck, name)
        monkeypatch.setattr(precheck, name, lambda *a, n=name, w=work: done.append(n) or w(*a))
    precheck.check(command.split(" "))
    jobs = 3 if "-m" in command else 1
    assert done.count("load") == jobs and done.count("composed") == jobs + ("-m" in command)


def test_a_sweep_knows_its_place_and_how_its_jobs_share_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = precheck.check(["-m", "seed=0,1", "name=a", "device=cpu", "jobs_per_gpu=3"])
    assert (sweep.place, sweep.device, sweep.jobs_per_gpu) == (Path("outputs/a"), "cpu", 3)
    assert sweep.launcher["_target_"].endswith("BasicLauncher")


def test_of_a_long_sweep_the_first_jobs_are_checked_and_all_have_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precheck, "CHECKED", 1)
    monkeypatch.setenv("CVAE_DATA", "nowhere")
    done = []
    for name in ("composed", "load"):
        work = getattr(precheck, name)
        monkeypatch.setattr(precheck, name, lambda *a, n=name, w=work: done.append(n) or w(*a))
    sweep = precheck.check(["-m", "task=toy,ptb", "seed=0,1"])
    assert [Path(folder).parent.name for folder in sweep.jobs] == ["toy", "toy", "ptb", "ptb"]
    assert (done.count("load"), done.count("composed")) == (1, 3)  # one for the command, one for each task


def test_forty_jobs_of_a_sweep_are_checked_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, checked = [], []
    compose = precheck.composed
    monkeypatch.setattr(precheck, "composed", lambda job: (base or base.append(compose(job)) or base)[0])
    monkeypatch.setattr(precheck, "_checked", checked.append)
    monkeypatch.setattr(precheck, "check_surroundings", lambda config, folder: None)
    assert len(precheck.check(["-m", "seed=range(0,45)"]).jobs) == 45 and len(checked) == 40


def test_missing_data(refused, monkeypatch):
    said = refused("task=ptb", "dataset.path=nowhere")
    assert said.startswith("no data at nowhere/train.txt: python scripts/get_data.py ptb fetches them")
    for value, folder in (("/else", "/else"), ("", "data")):
        monkeypatch.setenv("CVAE_DATA", value)
        assert refused("task=ptb").startswith(f"no data at {folder}/ptb/train.txt")


def test_a_folder_is_no_file_of_data(refused, tmp_path):
    for name in ("train.txt", "train.jsonl", "sentiment.train.0"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for task, name in {"ptb": "train.txt", "switchboard": "train.jsonl", "yelp": "sentiment.train.0"}.items():
        assert refused(f"task={task}", "dataset.path=data").startswith(f"no data at data/{name}")
    assert refused("task=ptb", "dataset=text", "dataset.path=data").startswith("no text at data/train.txt")


def test_only_a_finished_run_that_stays_needs_no_data(refused, tmp_path, configured):
    folder, command = tmp_path / "outputs" / "a", ["task=ptb", "dataset.path=nowhere"]
    folder.mkdir(parents=True)
    about = {"format": 1, "config": configured(*command, "name=a").container}
    (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
    place = [*command, "name=a", "hydra.run.dir=outputs/a"]
    (folder / "results.json").write_text(json.dumps({"finished": True}), encoding="utf-8")
    precheck.check(place)
    assert refused(*place, "overwrite=true").startswith("no data at nowhere/train.txt")
    (folder / "results.json").write_text(json.dumps({"finished": False}), encoding="utf-8")
    assert refused(*place).startswith("no data at nowhere/train.txt")


def test_a_folder_with_another_run(refused, tmp_path, configured):
    folder = tmp_path / "outputs" / "toy" / "seed-3"
    folder.mkdir(parents=True)
    about = {"format": 1, "config": configured("seed=4", "lr.value=2").container, "versions": {}, "data": {}}
    (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "checkpoint_last.pt").write_bytes(b"precious")
    said = refused("seed=3")
    assert said.startswith("outputs/toy/seed-3 holds a different run: lr.value is 2")
    assert "seed is 4 there and 3 here" in said and "overwrite=true" in said
    assert refused("-m", "seed=2,3") == said


def test_a_key_that_one_of_two_runs_lacks_is_told_from_one_of_null():
    assert differences({"a": None, "b": 1}, {"b": 2, "c": None}) == [
        "a is None there and 'absent' here",
        "b is 1 there and 2 here",
        "c is 'absent' there and None here",
    ]


def test_a_source_that_is_no_finished_run(refused):
    said = refused("task=ptb", "dataset=tiny", "init_from=nowhere", "reset_decoder=true")
    assert said == "init_from=nowhere is not the folder of a finished run"


@pytest.mark.parametrize("key", ["init_from", "continue_from"])
@pytest.mark.parametrize(
    ("files", "more", "looked_at"),
    [
        ((), (), True),
        (("checkpoint_last.pt",), (), False),  # it goes on from its own checkpoint
        (("checkpoint_last.pt",), ("overwrite=true",), True),
    ],
)
def test_a_source_is_looked_at_where_a_run_starts(key, files, more, looked_at, tmp_path, configured):
    starts = ("task=ptb", "dataset=tiny", f"{key}=nowhere", "schedule=monotonic", *more)
    config = configured(*starts, *(["reset_decoder=true"] if key == "init_from" else []))
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "config": config.container}))
    for name in files:
        (tmp_path / name).touch()
    if not looked_at:
        precheck.check_surroundings(config, str(tmp_path))
        return
    with pytest.raises(UserError, match=f"^{key}=nowhere is not the folder of a"):
        precheck.check_surroundings(config, str(tmp_path))


def test_the_source_of_classifiers_is_looked_at_at_every_start(tmp_path, configured, monkeypatch):
    config = configured("task=yelp", "init_from=nowhere", "task.finetune.modes=[probe]")
    monkeypatch.setattr(type(config.dataset), "refuse_missing", lambda dataset: None)
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "config": config.container}))
    (tmp_path / "checkpoint_last.pt").touch()
    with pytest.raises(UserError, match="init_from=nowhere is not the folder of a finished run"):
        precheck.check_surroundings(config, str(tmp_path))


CONTINUED = [
    ([], "continue_from with schedule=cyclical must say what β does after the old end: continue_beta=cycles"),
    (["schedule=monotonic"], "continue_from=nowhere is not the folder of a run; where one was continued"),
    (
        ["schedule=monotonic", "continue_beta=cycles"],
        "continue_beta=cycles needs cycles to go on, and schedule=monotonic has none: leave it out",
    ),
    (["continue_beta=hold", "lr=cosine_restarts"], "continue_from with lr=cosine_restarts must say what the"),
    (
        ["continue_beta=hold", "continue_lr=restarts"],
        "continue_lr=restarts needs restarts to go on, and lr=constant has none: leave it out",
    ),
    (["continue_beta=hold", "init_from=a"], "init_from and continue_from each name the run that this one"),
    (["continue_beta=no"], "continue_beta must be one of cycles, hold or null, found 'no'"),
    (["continue_from=null", "continue_beta=hold"], "continue_beta says what follows the end of another run:"),
    (["continue_from=null", "continue_lr=hold"], "continue_lr says what follows the end of another run:"),
]


@pytest.mark.parametrize(("own", "sentence"), CONTINUED)
def test_what_cannot_be_continued_is_said_before_torch_is_imported(own, sentence, refused):
    arguments = [] if "continue_from=null" in own else ["continue_from=nowhere"]
    said = refused("task=ptb", "dataset=tiny", *arguments, *own)
    assert said.splitlines()[0].startswith(sentence), said


def test_the_same_run_and_one_to_overwrite_are_let_through(tmp_path, monkeypatch, configured):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "toy" / "seed-3"
    folder.mkdir(parents=True)
    about = {"format": 1, "config": configured("seed=3", "device=cpu").container}
    (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
    precheck.check(["seed=3"])
    precheck.check(["seed=3", "train.steps=7", "hydra.run.dir=outputs/toy/seed-3", "overwrite=true"])


def test_what_is_shown_instead_of_run_needs_no_data():
    for shown in (["--info", "defaults"], ["--info"], ["-i"], ["--cfg", "hydra"], ["-c", "all", "--resolve"]):
        assert precheck.check(["task=ptb", "dataset.path=nowhere", *shown]) is None


@pytest.mark.parametrize(
    ("more", "path"),
    [([], "${cvae.data:}/ptb"), (["--resolve"], "somewhere/ptb")],
    ids=["as it is", "resolved"],
)
def test_the_configuration_of_a_job_is_shown_without_hydras(more, path, monkeypatch, configured):
    monkeypatch.setenv("CVAE_DATA", "somewhere")
    shown = yaml.safe_load(precheck.check(["-c", "job", *more, "task=ptb"]))
    assert shown["dataset"]["path"] == path
    assert shown.keys() <= configured().container.keys()


@pytest.mark.parametrize("flag", ["--hydra-help", "--shell-completion", "-sc"])
def test_what_hydra_answers_alone_is_not_checked(flag):
    assert precheck.check([flag, "schedul=cyclical"]) is None
