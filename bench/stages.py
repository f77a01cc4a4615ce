"""The other stages: one query, cold start, growth. Each returns what the report and the JSON hold."""

from contenders import CONTENDERS, TUNED
from counting import quantiles, rotated, slope, summary
from measuring import Measuring, Result, say
from models import Model
from plan import USUAL_SIZE, Growth
from processes import Bench, ContenderError, Workers, whole_process

# one query


def latency(run: Measuring, workers: Workers) -> Result:
    """Seconds of calls with one short text each, contenders in turn."""
    say(f"latency: {workers.model.name}")
    queries = run.texts.mix("short", run.plan.calls)
    found: dict[str, list[float]] = {name: [] for name in workers.able(untuned(run.names))}
    for turn in range(-1, run.plan.rounds):  # the first is to warm up
        for name in rotated(list(found), max(turn, 0)):
            if name not in workers.skipped:
                add_latency(workers, name, queries if turn >= 0 else queries[:5], found[name] if turn >= 0 else [])
    return {name: quantiles(seconds) for name, seconds in found.items() if name not in workers.skipped}


def add_latency(workers: Workers, name: str, queries: list[str], seconds: list[float]) -> None:
    size = CONTENDERS[name].size
    size = USUAL_SIZE if size == TUNED else size or 0
    try:
        seconds += workers.get(name).ask("latency", texts=queries, size=size)["seconds"]
    except ContenderError as failure:
        workers.skip(name, str(failure))


# cold start


def cold(run: Measuring, model_name: str) -> Result:
    """Whole processes: import, load, one vector. Of several rounds, one more in front fills the file cache."""
    model = run.bench.models.open(model_name)
    say(f"cold start: {model.name}")
    able = [name for name in untuned(run.names) if CONTENDERS[name].dtype == "float32" or run.bench.device != "cpu"]
    for turn in range(run.plan.rounds + (run.plan.rounds > 1)):
        if turn < 2:
            found: dict[str, list[Result]] = {name: [] for name in able}
        for name in rotated(able, turn):
            found[name] += cold_once(run.bench, name, model)
        able = [name for name in able if found[name]]
    return {name: {key: summary([row[key] for row in found[name]]) for key in found[name][0]} for name in able}


def cold_once(bench: Bench, name: str, model: Model) -> list[Result]:
    """One result, or none."""
    try:
        return [whole_process([*bench.command(name, bench.folder(name, model)), "--cold"], bench.variables())]
    except ContenderError as failure:
        say(f"  {name}: {failure}")
        return []


def untuned(names: list[str]) -> list[str]:
    """Without those that differ from another one by their batch size alone."""
    return [name for name in names if name.removesuffix(" tuned") == name or name.removesuffix(" tuned") not in names]


# growth


def growth_texts(run: Measuring, growth: Growth) -> Result:
    """One process, more and more texts: up the counts and down again, so that the machine's drift shows as spread."""
    model = run.bench.models.open(growth.texts_model)
    say(f"growth: {growth.contender}, {model.name}, up to {max(growth.texts):,} texts")
    every = run.texts.brief(max(growth.texts))
    rows: dict[int, list[Result]] = {count: [] for count in growth.texts}
    with Workers(run.bench, model) as workers:
        if not workers.starts(growth.contender):
            return {"skipped": workers.skipped[growth.contender]}
        worker = workers.get(growth.contender)
        tokens = run.toolbox.ask("lengths", folder=str(model.folder), texts=run.file(every))["lengths"]
        worker.ask("encode", texts=run.file(every[: max(growth.texts) // 20], "warm"), size=0)
        for count in (*growth.texts, *reversed(growth.texts[:-1])):
            rows[count].append(worker.ask("sampled", texts=run.file(every[:count]), size=0))
    per_text = {count: [row["seconds"] / count for row in found] for count, found in rows.items()}
    medians = {count: summary(values)["median"] for count, values in per_text.items()}
    return {
        "contender": growth.contender,
        "model": model.name,
        "mean_tokens": sum(tokens) / len(tokens),
        "seconds_per_text": {str(count): summary(values) for count, values in per_text.items()},
        "deviation": slope(medians),
        "memory": memory_of(rows[max(growth.texts)][0]["resident_mib"]),
    }


def memory_of(samples: list[float]) -> Result:
    """Resident memory in front of the largest call, after a tenth of its time, at its end, and a curve to draw."""
    step = max(1, len(samples) // 200)
    return {
        "before": samples[0],
        "tenth": max(samples[: max(1, len(samples) // 10)]),
        "highest": max(samples),
        "end": samples[-1],
        "curve": samples[::step],
    }


def growth_lengths(run: Measuring, growth: Growth) -> Result:
    """Tokens a second at each length of text."""
    model = run.bench.models.open(growth.lengths_model)
    say(f"growth: lengths, {model.name}")
    found: dict[str, Result] = {}
    with Workers(run.bench, model) as workers:
        names = list(workers.able([name for name in growth.contenders if name in run.names]))
        for length in growth.lengths:
            if length <= model.limit:
                found[str(length)] = at_length(run, workers, names, length, max(1, growth.tokens // length))
    return {"model": model.name, "tokens_per_second": found}


def at_length(run: Measuring, workers: Workers, names: list[str], length: int, count: int) -> Result:
    source = run.file(run.texts.documents if length > 64 else run.texts.documents[:50], "documents")
    file, folder = str(run.place / "cut.json"), str(workers.model.folder)
    run.toolbox.ask("cut", folder=folder, texts=source, length=length, count=count, out=file)
    tokens = sum(run.toolbox.ask("lengths", folder=folder, texts=file)["lengths"])
    size = max(1, min(USUAL_SIZE, 8192 // length))
    rates: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-1, min(2, run.plan.rounds) if length < 4096 else 1):
        for name in rotated(names, max(turn, 0)):
            if turn >= 0 or length < 1024:  # the first is to warm up
                seconds = workers.get(name).ask("encode", texts=file, size=size)["seconds"]
                rates[name] += [tokens / seconds] if turn >= 0 else []
    return {name: summary(values) for name, values in rates.items()}
