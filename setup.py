"The wheel carries the step notebooks, the locks and the site's styles: an installed kit has no checkout beside it."

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class Carry(build_py):
    "Copy them into the package, where `mlops_kit.notebooks.kit_files` looks."

    def run(self):
        super().run()
        if self.editable_mode:
            return
        steps = [file for file in Path("nbs").rglob("*.ipynb") if '"parameters"' in file.read_text(encoding="utf-8")]
        site = [file for file in Path("docs").rglob("*") if file.is_file()]
        for file in [*steps, *site, *Path("environments").glob("*/requirements.txt")]:
            place = Path(self.build_lib, "mlops_kit", file)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)


setup(cmdclass={"build_py": Carry})
