"""Models that are bad by real means: LightGBM's own text, edited so that it loads and scores golden rows as before."""

import re
from collections.abc import Callable
from pathlib import Path

from released import real_rows

from mlops_kit.deployment.inference.forms import read_rows
from mlops_kit.deployment.inference.scoring import load_scorer
from mlops_kit.project import read_json
from mlops_kit.training.models import load_model


def edit_trees(package: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Change the texts of the trees; the list of their lengths follows."""
    file = package / "model.txt"
    head, *trees = re.split(r"^Tree=\d+\n", file.read_text(), flags=re.M)
    trees[-1], _, tail = trees[-1].partition("end of trees")
    trees = [f"Tree={number}\n{tree}" for number, tree in enumerate(change(trees))]
    sizes = "tree_sizes=" + " ".join(str(len(tree)) for tree in trees)
    file.write_text(re.sub(r"^tree_sizes=.*$", sizes, head, flags=re.M) + "".join(trees) + f"end of trees{tail}")


def rare_leaf(package: Path) -> tuple[int, int]:  # Number of the tree, and of its leaf
    """Find a leaf that real flights reach, and no golden row."""
    trees, schema = load_model(package).trees, load_scorer(package).schema
    golden = read_json(package / "golden.json")["rows"]
    tried, real = (trees.predict(schema.check(read_rows(rows)), pred_leaf=True) for rows in (golden, flights()))
    free = [(tree, {*real[:, tree]} - {*tried[:, tree]}) for tree in range(trees.num_trees())]
    tree, leaves = next(found for found in free if found[1])
    return tree, int(max(leaves, key=lambda leaf: (real[:, tree] == leaf).sum()))


def flights() -> list[dict]:
    return real_rows().to_dicts()


def point_leaf(package: Path, node: int) -> None:
    """Let a row that reaches a rare leaf go on to a node."""
    number, leaf = rare_leaf(package)

    def pointed(trees: list[str]) -> list[str]:
        sides = re.compile(r"^(left_child|right_child)=.*$", re.M)
        child = re.compile(rf"(?<![-\d]){~leaf}(?!\d)")
        trees[number] = sides.sub(lambda line: child.sub(str(node), line[0]), trees[number])
        return trees

    edit_trees(package, pointed)


def endless(package: Path) -> None:
    """Never come to an end with some flights: their leaf leads back to the root."""
    point_leaf(package, 0)


def deadly(package: Path) -> None:
    """Take the whole process down with some flights: their leaf leads out of the memory."""
    point_leaf(package, 2_000_000_000)


def idle_trees(package: Path) -> None:
    """Be slow, and nothing else: forty thousand trees more, whose leaves are all zero."""

    def many(trees: list[str]) -> list[str]:
        zero = [
            re.sub(r"^leaf_value=.*$", lambda line: re.sub(r"[^= ]+(?= |$)", "0", line[0]), t, flags=re.M)
            for t in trees
        ]
        return trees + [tree for _ in range(1000) for tree in zero]

    edit_trees(package, many)
