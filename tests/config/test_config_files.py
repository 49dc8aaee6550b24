"""Config files: what a file does wrong is reported in one line, with its own line number."""

import pytest

from vit_jax.config import load_config
from vit_jax.errors import UserError

HEAD = "from vit_jax.config import default_config\n"
START = f"{HEAD}def get_config():\n    config = default_config()\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{START}    config.batch_sise = 3\n    return config\n",
            ", line 4: unknown key 'batch_sise'; did you mean 'batch_size'?",
        ),
        (f"{START}    config.batch_size = 'many'\n    return config\n", ", line 4: config.batch_size must be "),
        (f"{START}    return 1 / 0\n", ", line 4: ZeroDivisionError: division by zero"),
        (f"{START}    raise SystemExit('no')\n", ", line 4: SystemExit: no"),
        ("def get_config(:\n", ", line 1: SyntaxError"),
        ("import nothing_of_this_name\n", ", line 1: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        (HEAD, " must define a function get_config, which returns a config"),
        (
            f"{HEAD}def get_config():\n    return {{}}\n",
            ": get_config must return a config made by default_config(), got dict",
        ),
        (f"{HEAD}def get_config(size):\n    return default_config()\n", " needs an argument. Write --config="),
    ],
)
def test_mistakes_of_a_file(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_config(str(path), [])
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


def test_a_file_without_arguments_refuses_one(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"{START}    return config\n")
    assert load_config(str(path), []).batch_size == 1024
    with pytest.raises(UserError, match=r"mine.py takes no argument, got 'S/16'. Write --config=.*mine.py$"):
        load_config(f"{path}:S/16", [])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("configs/finetune.py:3x4", "configs/finetune.py:3x4: the argument is the image size in pixels, such as 384"),
        ("configs/folder.py:Ti/8,32x", "configs/folder.py:Ti/8,32x: the argument is VARIANT,SIZE"),
        ("configs/quickstart.py:foo", "configs/quickstart.py takes no argument, got 'foo'"),
        ("configs/nothing.py", "no config file 'configs/nothing.py'"),
    ],
)
def test_arguments_of_the_configs_here(monkeypatch, request, name, message):
    monkeypatch.chdir(request.config.rootpath)
    with pytest.raises(UserError) as error:
        load_config(name, [])
    assert str(error.value).startswith(message)
