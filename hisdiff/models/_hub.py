"""Share models on the Hugging Face hub: the model card, and what the encoder's licence allows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from hisdiff._training._calibration import Calibration
    from hisdiff.models._cohort import Cohort


class Shareable(Protocol):
    """What a card tells of a model, and how it is written."""

    id: str
    method: str
    version: str
    cohort: Cohort

    @property
    def genes(self) -> np.ndarray: ...

    @property
    def calibration(self) -> Calibration | None: ...

    def save(self, path: Path) -> Path: ...


def push(model: Shareable, repo_id: str, *, private: bool, token: str | None) -> str:
    """Upload a model and its card; see :meth:`hisdiff.models.Model.push_to_hub`."""
    _check_licence(model)
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        (Path(folder) / "model" / "README.md").write_text(card(model, repo_id), encoding="utf8")
        info = api.upload_folder(
            repo_id=repo_id, folder_path=str(Path(folder) / "model"), commit_message=f"hisdiff model {model.id}"
        )
    return str(info)


def _check_licence(model: Shareable) -> None:
    cohort = model.cohort
    encoder = "(not recorded)" if cohort.features is None else repr(cohort.features.encoder)
    if cohort.derivatives is None:
        raise PermissionError(
            f"The licence of encoder {encoder} is unknown to hisdiff, and some licences cover models trained on an "
            f"encoder's output; such a model is not uploaded. Give the encoder's spec its licence and derivatives=True if that is allowed."
        )
    if not cohort.derivatives:
        raise PermissionError(
            f"The licence of encoder {encoder} ({cohort.licence}) does not let models made with it be shared. "
            f"Encoders without such terms: texture, resnet50, h-optimus-0."
        )


def card(model: Shareable, repo_id: str) -> str:
    """Return the model card: description, cohort, requirements and expected accuracy of the model."""
    cohort, features = model.cohort, model.cohort.features
    encoder = (
        "none"
        if features is None
        else f"{features.encoder} (revision {features.revision}, {features.dim} values, patch {features.patch_um:g} um; licence {cohort.licence})"
    )
    accuracy = ""
    if model.calibration is not None:
        pcc = model.calibration.cv_pcc
        best = ", ".join(str(model.genes[i]) for i in np.argsort(-np.nan_to_num(pcc, nan=-1))[:5])
        norm = model.calibration.cv_pcc_norm
        flat = "" if norm is None else f" With library size taken out: median {np.nanmedian(norm):.2f}."
        accuracy = (
            f"\n## Expected accuracy\n\nOn left-out tissue of the training sections, Pearson correlation per gene: median {np.nanmedian(pcc):.2f}, "
            f"90 % between {np.nanquantile(pcc, 0.05):.2f} and {np.nanquantile(pcc, 0.95):.2f}. Best: {best}.{flat}\n"
        )
    pixel_sizes = ", ".join(sorted({f"{mpp:.3g}" for mpp in cohort.mpp}))
    return f"""---
library_name: hisdiff
tags:
- spatial-transcriptomics
- histology
---

# Gene expression from H&E: {model.method} model {model.id}

```python
import hisdiff as hd

model = hd.models.load("{repo_id}")
hd.tl.predict(sdata, model)
```

| | |
|---|---|
| method | {model.method} |
| panel | {len(model.genes)} genes |
| encoder | {encoder} |
| cohort | {len(cohort.sections)} section(s): {", ".join(cohort.sections)} |
| image | {pixel_sizes} um per pixel |
| spots | radius {cohort.radius_um:.3g} um, pitch {cohort.pitch_um:.3g} um, library size {cohort.library_size:.0f} counts over the panel |
| hisdiff | {model.version} |
{accuracy}
## Where it applies

The accuracy holds for sections like those of the cohort. `hd.tl.predict` compares every new section with them and records `transfer`: `alike` or `unlike`, with the
distance (1 is the limit). For another patient, organ, stain or scanner it is lower; a few measured spots of the new section help most (`hd.tl.adapt`).

## Licence

Encoder: {cohort.licence}. Its terms may extend to models trained on its output, and so to this one.

Predictions are estimates from morphology. They follow what the training sections showed, and are not measurements.
"""
