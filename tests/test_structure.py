"""The house: imports point down, doors are doors, networks and rounds read nothing back, nothing grows out of hand.

Every rule walks the syntax trees of all files of the package, and is tried on a few lines that break it.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from support.paths import EXAMPLES, PACKAGE, ROOT, TESTS, TOOLS
from support.source import Import, Module, imports, modules, reads_back, room_of, scoped

import mlx_gemma4_assist

# From the ground up. A room imports from itself, and from rooms on lower floors.
FLOORS = (
    ("errors",),
    ("files", "extras", "backend", "options", "environment"),
    ("models",),
    ("checkpoints", "cache"),
    ("text", "media", "drafts", "rounds"),
    ("engine",),
    ("api", "machine", "evaluation", "conversion", "bundle"),
    ("server", "huggingface", "training"),
    ("integrations",),
    ("terminal",),
    ("commands",),
)
BESIDE = {  # rooms on one floor of which the first imports from the second
    ("media", "text"): "a picture's place is in a message",
    ("evaluation", "api"): "what users call is what is measured",
    ("evaluation", "machine"): "a figure names its chip",
    ("conversion", "evaluation"): "a card tells what a conversion costs",
    ("conversion", "machine"): "a format is chosen for a chip",
    ("bundle", "conversion"): "both appear whole or not at all",
    ("bundle", "evaluation"): "how close rounding is, is measured there",
}
DOORS = ("generate", "chat", "serve", "connect", "convert", "export", "parity", "benchmark", "doctor")
# At once; a function may import it.
WITHOUT_MLX = ("errors", "files", "extras", "options", "text", "drafts", "terminal")

MOST_LINES_OF_A_DOOR = 8
MOST_LINES_OF_A_FUNCTION = 60
MOST_LINES_OF_A_FILE = 450
MOST_FILES_OF_AN_OPTION = 5

HOST_FREE = ("models", "cache", "rounds")
MAY_READ = {
    "cache/file.py: _restored": "a loaded cache is there, so that any thread may use it",
    "cache/rows.py: KVCache._allocate": "empty buffers, so that any thread may use them",
    "models/config.py: _check_override": "a key of config.json",
    "models/layers.py: RotaryEmbedding.__init__": "figures of a config",
    "models/linear.py: Linear.__call__": "a constant, while a round is traced, never while one runs",
    "models/names.py: layer_number": "digits of a tensor's name",
    "rounds/host_accept.py: HostAcceptor.__call__": "deciding on the host is what it is for",
    "rounds/host_accept.py: HostAcceptor._one": "deciding on the host is what it is for",
}
MAY_CATCH_ALL = {
    "checkpoints/hub.py: _download": "the Hub's library hands on what its HTTP client, proxies and JSON raise",
    "conversion/upload.py: _in_one_sentence": "as for downloads",
    "engine/worker.py: attempted": "what one request brings about must not end the thread that serves all",
    "media/fetch.py: _within.run": "a thread hands on whatever was raised",
    "media/pictures.py: _decode": "Pillow's decoders raise anything over a broken file",
    "media/pictures.py: _read": "Pillow's readers raise anything over a broken header",
    "server/faults.py: told_as_errors": "whatever goes wrong over one request is logged, and must not end others",
    "terminal/opening.py: Opening._handed_on": "a thread hands on whatever was raised",
}
# What breaks a rule still, and what will mend it. To become empty: a line that has been mended is an error too.
KNOWN: dict[str, str] = {}


def check(found: Iterable[str], pattern: str) -> None:
    """Nothing found but what is known, and all that is known of this kind found."""
    found = set(found)
    known = {line for line in KNOWN if re.search(pattern, line)}
    assert sorted(found - known) == []
    assert sorted(known - found) == [], "these are mended: delete them from KNOWN"


@pytest.fixture(scope="module")
def house() -> dict[str, Module]:
    return modules()


def short(module: str) -> str:
    return module.partition(".")[2]


def within(house: dict[str, Module]) -> Iterator[Import]:
    """Imports of the package's modules from each other; the package's own ``__init__`` names all that is public."""
    (package,) = (name for name in house if "." not in name)
    for module in house.values():
        for each in imports(module, house.keys()):
            if module.name != package and each.target.split(".")[0] == package:
                yield each


# Imports


def floor_of(room: str) -> int:
    return next((i for i, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


def upward(house: dict[str, Module]) -> set[str]:
    """Imports that do not point down: to higher floors, to other rooms on one floor, to the package itself."""
    found = set()
    for importer, target, name, _ in within(house):
        rooms = room_of(importer), room_of(target)
        from_package = not rooms[1] and name != "__version__"
        level = rooms[0] != rooms[1] and rooms not in BESIDE and floor_of(rooms[0]) <= floor_of(rooms[1])
        if from_package or (rooms[1] and level):
            found.add(f"{short(importer)} imports {short(target) or name}")
    return found


def cycle(house: dict[str, Module]) -> list[str]:
    """Modules that import each other at once, if there are such; functions may import what is being made."""
    graph: dict[str, set[str]] = {}
    for each in within(house):
        if each.when == "at once" and each.target != each.importer:
            graph.setdefault(each.importer, set()).add(each.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def needing(house: dict[str, Module], library: str) -> set[str]:
    """Modules that import a library at once, by themselves or by what they import."""
    at_once: dict[str, set[str]] = {name: set() for name in house}
    for name, module in house.items():
        at_once[name] = {each.target for each in imports(module, house.keys()) if each.when == "at once"}
    found = {name for name, targets in at_once.items() if any(t.split(".")[0] == library for t in targets)}
    while more := {name for name, targets in at_once.items() if targets & found} - found:
        found |= more
    return found


def test_imports_point_down(house):
    rooms = {room for module in house.values() if (room := module.room)} - {*DOORS, "__main__"}
    assert rooms <= {room for floor in FLOORS for room in floor}
    assert len(list(within(house))) > 300
    check(upward(house), " imports ")


def test_nothing_is_imported_in_circles(house):
    assert cycle(house) == []


def test_what_is_read_before_mlx_is_there(house):
    check(
        {f"{short(name)} needs MLX" for name in needing(house, "mlx") if room_of(name) in WITHOUT_MLX},
        "needs MLX",
    )


def made(folder: Path, **files: str) -> dict[str, Module]:
    """The modules of a package of these files; ``a__b`` is ``a/b.py``."""
    for name, text in ({"__init__": ""} | files).items():
        path = folder / "house" / f"{name.replace('__', '/') if name != '__init__' else name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return modules(folder / "house")


def test_imports_are_found_wherever_they_stand(tmp_path):
    house = made(
        tmp_path,
        models__one="def f():\n    from ..cache.layout import Ring\n",
        models__deep__two="if TYPE_CHECKING:\n    from ...engine import pair\n",
        cache__layout="import house.rounds.round\nfrom .. import load, __version__\n",
        rounds__round="from ..drafts import clock\nfrom ..models import one\n",
        drafts__clock="",
        engine__pair="from house.rounds import round\nfrom ..media import tokens",
        media__tokens="from ..text import messages",
        text__messages="",
    )
    assert upward(house) == {
        "models.one imports cache.layout",
        "models.deep.two imports engine.pair",
        "cache.layout imports rounds.round",
        "cache.layout imports load",
        "rounds.round imports drafts.clock",
    }


def test_circles_are_found(tmp_path):
    house = made(tmp_path, a="from .b import x", b="from . import c", c="def f():\n    from . import a")
    assert cycle(house) == []
    house = made(tmp_path, c="from .a import y")
    assert set(cycle(house)) == {"house.a", "house.b", "house.c"}


def test_libraries_are_found_behind_modules(tmp_path):
    house = made(tmp_path, a="from .b import x", b="import mlx.core as mx", c="def f():\n    import mlx.nn")
    assert needing(house, "mlx") == {"house.a", "house.b"}


# Doors


def test_doors_are_imported_by_nobody(house):
    """The console script, and who tests it, may enter by ``__main__``."""
    package = mlx_gemma4_assist.__name__
    doors, main = {f"{package}.{name}" for name in DOORS}, f"{package}.__main__"
    assert {main, *doors} <= house.keys()
    public = {f"{package}.{name}" for name in mlx_gemma4_assist.__all__}
    others = [*TESTS.rglob("*.py"), *TOOLS.rglob("*.py"), *EXAMPLES.rglob("*.py"), ROOT / "convert.py"]
    files = [*house.values(), *(Module(path.stem, path, ast.parse(path.read_text())) for path in others)]
    assert len(files) > len(house) + 50
    # A door that is also a public name is meant as the name, unless something is taken from the door.
    known = frozenset(house.keys() - public)
    found = [each for file in files for each in imports(file, known) if each.target in (main, *doors)]
    assert [each for each in found if each.target in doors or each.importer in house] == []


@pytest.mark.parametrize("door", DOORS)
def test_doors_are_short(house, door):
    file = PACKAGE / f"{door}.py"
    files = [file] if file.exists() else (PACKAGE / door).glob("*.py")
    lines = [line for path in files for line in path.read_text().splitlines()]
    assert 1 < len(lines) <= MOST_LINES_OF_A_DOOR


@pytest.mark.parametrize("module", [f"mlx_gemma4_assist.{door}" for door in DOORS] + ["mlx_gemma4_assist"])
def test_doors_open(module):
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(f"Usage: python -m {module} ")
    assert done.stderr == ""


# Host reads


def reads(folder: Path, rooms: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(file: function, the call) of every call that may read an array back."""
    for path in sorted(path for room in rooms for path in (folder / room).rglob("*.py")):
        for scope, node in scoped(ast.parse(path.read_text(encoding="utf-8"))):
            if reads_back(node):
                yield f"{path.relative_to(folder).as_posix()}: {scope}", ast.unparse(node)


def test_no_host_read_in_networks_and_rounds():
    found = list(reads(PACKAGE, HOST_FREE))
    assert [(place, call) for place, call in found if place not in MAY_READ] == []
    assert set(MAY_READ) - {place for place, _ in found} == set(), "these read nothing any longer"


def test_the_search_for_host_reads_sees_all_files(house):
    """What it may see is what Python may import, and the files that matter most are among them."""
    seen = {short(module.name) for module in house.values() if module.room in HOST_FREE}
    assert {"models.gemma4_text", "models.gemma4_assistant", "models.attention", "models.layers"} <= seen
    assert {"cache.layout", "rounds.round", "rounds.sampling", "rounds.compiled"} <= seen
    assert len(seen) >= 25


@pytest.mark.parametrize(
    "call",
    [
        "x.item()",
        "self.length.tolist()",
        "mx.eval(x)",
        "mx.async_eval(x)",
        "mx.synchronize()",
        "eval(x)",
        "int(x)",
        "float(x[0])",
        "bool(mx.any(x))",
        "np.array(x)",
        "np.asarray(x)",
        "numpy.array(x)",
    ],
)
def test_each_kind_of_read_is_found(tmp_path, call):
    """Also in a method, a nested function, a folder of a folder, and an argument of another call."""
    file = tmp_path / "models" / "deep" / "net.py"
    file.parent.mkdir(parents=True)
    file.write_text(f"class Net:\n    def run(self, x):\n        return [f(1, {call}) for _ in x]\n")
    assert list(reads(tmp_path, HOST_FREE)) == [("models/deep/net.py: Net.run", call)]


def test_what_is_no_read_is_not_taken_for_one():
    harmless = "int(), mx.array(x), x.eval_later, np.float32(1), items(), tolist"
    assert not any(reads_back(node) for node in ast.walk(ast.parse(harmless)))


# Habits


def length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def catches_all(node: ast.AST) -> bool:
    """Bare, or of a class that everything is an instance of."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    caught = ast.walk(node.type) if node.type else ()
    return node.type is None or any(
        isinstance(each, ast.Name) and each.id in ("Exception", "BaseException") for each in caught
    )


def asks_for_attributes(node: ast.AST) -> bool:
    """``hasattr``, and ``getattr`` with a default."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return False
    return node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) > 2)


def places(house: dict[str, Module], broken) -> set[str]:
    """Where nodes break a rule, as "file: function"."""
    return {
        f"{module.path.relative_to(PACKAGE).as_posix()}: {scope}"
        for module in house.values()
        for scope, node in scoped(module.tree)
        if broken(node)
    }


def test_no_attribute_is_asked_for(house):
    assert places(house, asks_for_attributes) == set()


def test_nothing_catches_all(house):
    assert places(house, catches_all) == set(MAY_CATCH_ALL)


def test_no_function_is_long(house):
    found = set()
    for module in house.values():
        for scope, node in scoped(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > MOST_LINES_OF_A_FUNCTION:
                name = f"{scope}.{node.name}".lstrip(".")
                found.add(f"{module.path.relative_to(PACKAGE).as_posix()}: {name} is long")
    check(found, "is long$")


def test_no_file_is_long(house):
    lines = {module.path.name: len(module.path.read_text().splitlines()) for module in house.values()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES_OF_A_FILE} == {}


def test_an_option_lives_in_a_handful_of_files(house):
    """Where ``min_p`` is spelled, any option of sampling is."""
    spelled = [module for module in house.values() if re.search(r"\bmin_p\b", module.path.read_text())]
    assert PACKAGE / "options.py" in [module.path for module in spelled]
    many = len(spelled) > MOST_FILES_OF_AN_OPTION
    check([f"min_p is spelled in {len(spelled)} files"] if many else [], "is spelled in")


def test_habits_are_found_out():
    text = "hasattr(a, 'b'); getattr(a, 'b', None); getattr(a, 'b')\ntry: pass\nexcept (OSError, Exception): pass\n"
    nodes = list(ast.walk(ast.parse(text + "try: pass\nexcept: pass\ntry: pass\nexcept OSError: pass")))
    assert sum(map(asks_for_attributes, nodes)) == sum(map(catches_all, nodes)) == 2


def test_tests_import_from_support_only():
    tests = {path.stem: path for path in TESTS.rglob("test_*.py")}
    assert len(tests) > 30
    found = [
        each
        for name, path in tests.items()
        for each in imports(Module(name, path, ast.parse(path.read_text())), frozenset())
        if each.target.split(".")[0] in tests
    ]
    assert found == []
