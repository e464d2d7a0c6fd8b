"""Files that are generated from the library say what it says now."""

import importlib.util

from grokdistill.params import schema


def test_the_schema_for_editors_is_current(repository):
    """`python -m grokdistill schema > workflow/schemas/params.schema.json` brings it up to date."""
    assert (repository / "workflow/schemas/params.schema.json").read_text(encoding="utf-8") == schema()


def test_dvc_yaml_is_current(repository):
    """`python workflow/scripts/write_dvc_yaml.py` brings it up to date."""
    spec = importlib.util.spec_from_file_location("write_dvc_yaml", repository / "workflow/scripts/write_dvc_yaml.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (repository / "dvc.yaml").read_text(encoding="utf-8") == script.text()
