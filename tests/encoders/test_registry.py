from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hisdiff import encoders
from hisdiff.encoders import EncoderSpec

NAMES = [
    "conch",
    "gigapath",
    "h-optimus-0",
    "h-optimus-1",
    "h0-mini",
    "phikon-v2",
    "resnet50",
    "texture",
    "texture-2um",
    "texture-4um",
    "uni",
    "uni2-h",
    "virchow",
    "virchow2",
]


class MeanColor:
    spec = EncoderSpec("mean-colour", "1", 3, 8, 1.0)

    def encode(self, patches: np.ndarray) -> np.ndarray:
        return patches.mean(axis=(1, 2), dtype=np.float32)


def test_names_are_sorted_and_complete():
    assert encoders.list() == NAMES


def test_an_object_that_meets_the_protocol_is_returned_as_it_is():
    own = MeanColor()
    assert encoders.get(own) is own


@pytest.mark.parametrize("wrong", [3, None, MeanColor, object()])
def test_what_is_no_encoder_is_a_type_error(wrong):
    with pytest.raises(TypeError, match="encode"):
        encoders.get(wrong)


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match=r"texture.*Did you mean 'texture'"):
        encoders.get("textur")


def test_a_name_gives_an_encoder_whose_spec_says_so():
    texture = encoders.get("texture")
    assert isinstance(texture, encoders.Encoder)
    assert texture.spec.name == "texture"


def test_info_tells_patch_licence_and_access():
    table = encoders.info()
    assert list(table.index) == NAMES
    assert table.loc["uni", "gated"]
    assert not table.loc["texture", "gated"]
    assert table.loc["uni", "patch_um"] == 112
    assert table.loc["virchow2", "dim"] == 2560
    assert list(table.index[~table["dense"]]) == ["resnet50"]


def test_importing_encoders_loads_neither_torch_nor_pandas():
    code = "import sys, hisdiff.encoders; print({'torch', 'timm', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
