"""A fitted method together with what it was fitted on, as users hold, save and share it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._check import listing, path_of
from hisdiff._keys import ALIKE, VERSION
from hisdiff._section import FeatureSpec
from hisdiff._stats._gene_modules import GeneModules
from hisdiff._training._calibration import Calibration
from hisdiff._training._checkpoint import WEIGHTS, check_plan, read_folder, without_memory, write_folder
from hisdiff._training._ood import EmbeddingDistribution
from hisdiff.methods._registry import get as method_named
from hisdiff.methods._registry import names as method_names
from hisdiff.models._cohort import Cohort
from hisdiff.models._hub import push

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hisdiff._json import Plain, State
    from hisdiff._section import Section
    from hisdiff.methods._protocols import Fitted

_FORMAT = 1


class Model:
    """A fitted model: made by :func:`hisdiff.tl.fit`, used by :func:`hisdiff.tl.predict`.

    Attributes
    ----------
    method
        Name of the method.
    genes
        ``(G,)`` names of the panel.
    config
        The method's configuration.
    cohort
        The sections it was fitted on.
    seed
        The seed it was fitted with.
    modules
        Modules of the genes of the panel, on which predictions are scored; None in models of before they were kept.
    """

    def __init__(
        self,
        method: str,
        fitted: Fitted,
        config: Mapping[str, Any],
        cohort: Cohort,
        *,
        ood: EmbeddingDistribution | None = None,
        modules: GeneModules | None = None,
        seed: int = 0,
        version: str = VERSION,
    ) -> None:
        self.method, self.fitted, self.config, self.cohort = method, fitted, dict(config), cohort
        self.ood, self.modules, self.seed, self.version = ood, modules, seed, version
        self.id = self._digest()

    @property
    def genes(self) -> np.ndarray:
        """``(G,)`` names of the panel."""
        return self.fitted.genes

    @property
    def calibration(self) -> Calibration | None:
        """Accuracy and interval factors measured on left-out training tissue."""
        return self.fitted.calibration

    @property
    def history(self) -> list[dict[str, float]]:
        """Training curve, rows with ``step`` and named values."""
        return self.fitted.history

    def __repr__(self) -> str:
        encoder = "no encoder" if self.cohort.features is None else f"encoder {self.cohort.features.encoder!r}"
        lines = [f"Model {self.id}: method {self.method!r}, {len(self.genes)} genes, {encoder}"]
        lines.append(f"    fitted on {len(self.cohort.sections)} section(s): {listing(self.cohort.sections, 6)}")
        if self.n_adapted:
            lines.append(f"    adapted to a new section by {self.n_adapted} spot(s)")
        if self.calibration is not None:
            flat = self.calibration.cv_pcc_norm
            flat = np.empty(0) if flat is None else flat[np.isfinite(flat)]  # a single gene has none
            also = f" ({np.median(flat):.2f} with library size taken out)" if len(flat) else ""
            lines.append(
                f"    on left-out training tissue: median PCC {np.nanmedian(self.calibration.cv_pcc):.2f}{also}; for sections "
                f"that predict records as {ALIKE!r}"
            )
        shared = {True: "may be shared", False: "may not be shared", None: "terms unknown"}[self.cohort.derivatives]
        lines.append(f"    licence of the encoder: {self.cohort.licence}; models made with it: {shared}")
        return "\n".join(lines)

    def with_fitted(self, fitted: Fitted) -> Model:
        """Return the same model with another fitted method, such as one that is adapted to a section."""
        return Model(
            self.method,
            fitted,
            self.config,
            self.cohort,
            ood=self.ood,
            modules=self.modules,
            seed=self.seed,
            version=self.version,
        )

    @property
    def n_adapted(self) -> int:
        """How many spots of a new section the model was adapted to."""
        known = getattr(self.fitted, "cohort_model", None)
        return 0 if known is None else known.n_given

    def record_of(self, n_draws: int, *, closed_form: bool | None = None) -> dict[str, float]:
        """Return for the record how many draws there are, and the relative standard error of their standard deviations.

        It is zero where they are known in closed form, and that of normal draws otherwise; a single draw has no spread.
        ``closed_form`` says which of the two; None for what the method does at spots.
        """
        if closed_form or (closed_form is None and getattr(self.fitted, "cohort_model", None) is not None):
            return {"n_draws": int(n_draws), "std_error": 0.0}
        error = {} if n_draws < 2 else {"std_error": float(1 / np.sqrt(2 * (n_draws - 1)))}
        return {"n_draws": int(n_draws), **error}

    def given_in(self, section: Section) -> np.ndarray:
        """Return which spots of a section the model was adapted to, bool ``(n,)``."""
        known = getattr(self.fitted, "cohort_model", None)
        if known is None:
            return np.zeros(0 if section.spots is None else len(section.spots), dtype=bool)
        return known.given_in(section, self.genes)

    def transfer_distance(self, section: Section) -> float | None:
        """Return how far a section with features is from the cohort, above 1 it is unlike; None where that is not known."""
        known = getattr(self.fitted, "cohort_model", None)
        if known is None or section.features is None:
            return None
        distance = known.transfer_distance(section)
        return distance if np.isfinite(distance) else None

    def save(self, path: str | Path) -> Path:
        """Write the model to a folder (``weights.safetensors``, ``config.json``, ``metadata.json``, ``genes.txt``).

        An existing model is replaced; anything else in its place is a ``FileExistsError``.
        """
        folder = path_of(path, "path")
        write_folder(folder, *self._content())
        return folder

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model with a card that names cohort, panel, encoder and its licence, pixel size and version.

        Parameters
        ----------
        repo_id
            ``"owner/name"`` of the repository on the Hugging Face hub; it is made where it is missing.
        private
            Whether a new repository is private.
        token
            Access token, or None for the one that ``hf auth login`` stored.

        Returns
        -------
        Address of the commit.

        Raises
        ------
        PermissionError
            If the encoder's licence is unknown or does not let models made with it be shared.
        """
        return push(self, repo_id, private=private, token=token)

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Load a model that :meth:`save` wrote. Nothing is unpickled; a damaged file is a ``ValueError`` that names it."""
        path = path_of(path, "path")
        arrays, files = read_folder(path)
        missing = [name for name in ("config.json", "metadata.json", "genes.txt") if name not in files]
        if missing:
            raise ValueError(f"{path} is not the folder of a hisdiff model: it lacks {missing}.")
        meta, config = files["metadata.json"], files["config.json"]
        if not isinstance(meta, dict) or not isinstance(config, dict):
            raise ValueError(
                f"{path} is not the folder of a hisdiff model: metadata.json and config.json hold no mappings."
            )
        if not isinstance(meta.get("format"), int) or meta["format"] > _FORMAT:
            raise ValueError(
                f"{path} was written by hisdiff {meta.get('version')} in format {meta.get('format')!r}, which this version "
                f"({VERSION}) does not know."
            )
        try:
            genes = np.array(files["genes.txt"].split("\n")[:-1], dtype=str)
            _check_same(path, _digest_of(arrays, meta, config, genes), meta["id"])
            return cls._from_content(arrays, meta, config, genes)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            kind = f"{type(error).__name__}: " * (not isinstance(error, ValueError))
            raise ValueError(
                f"{path / 'metadata.json'} cannot be used with {WEIGHTS} beside it: {kind}{error}"
            ) from error

    @classmethod
    def _from_content(
        cls, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], config: Mapping[str, Any], genes: np.ndarray
    ) -> Model:
        if meta["method"] not in method_names():
            raise ValueError(
                f"This is a model of method {meta['method']!r}, which is not known in this process; call "
                f"hd.methods.register with it first."
            )
        for name in ("calibration.cv_pcc", "calibration.interval_factor", "modules.raw", "cohort.expression"):
            if name in arrays and len(arrays[name]) != len(genes):
                raise ValueError(f"{name} is of {len(arrays[name])} genes, and genes.txt names {len(genes)}.")
        own = _part(arrays, "fitted")
        check_plan(meta["fitted"], own)
        fitted_type = method_named(meta["method"]).fitted_type
        with without_memory():
            fitted_type.from_state(own, meta["fitted"], genes)
        calibration, ood, modules = (_part(arrays, name) for name in ("calibration", "ood", "modules"))
        fitted = fitted_type.from_state(
            own,
            meta["fitted"],
            genes,
            calibration=Calibration.from_arrays(calibration) if calibration else None,
            history=meta["history"],
        )
        facts: Plain = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["cohort"].items()}
        features = facts.pop("features")
        facts["features"] = None if features is None else FeatureSpec(**features)
        cohort = Cohort(**facts, spots=arrays["cohort.spots"], expression=arrays.get("cohort.expression"))
        return cls(
            meta["method"],
            fitted,
            config,
            cohort,
            ood=EmbeddingDistribution.from_arrays(ood) if ood else None,
            modules=GeneModules.from_arrays(modules) if modules else None,
            seed=meta["seed"],
            version=meta["version"],
        )

    def _content(self) -> State:
        arrays, settings = self.fitted.state()
        arrays = {f"fitted.{name}": array for name, array in arrays.items()}
        if self.calibration is not None:
            arrays |= {f"calibration.{name}": array for name, array in self.calibration.arrays().items()}
        if self.ood is not None:
            arrays |= {f"ood.{name}": array for name, array in self.ood.arrays().items()}
        if self.modules is not None:
            arrays |= {f"modules.{name}": array for name, array in self.modules.arrays().items()}
        cohort = asdict(self.cohort)
        for name in ("spots", "expression"):
            values = cohort.pop(name)
            if values is not None:
                arrays[f"cohort.{name}"] = values
        for name in ("symbols", "patients"):
            if cohort[name] is None:
                cohort.pop(name)
        metadata = {
            "format": _FORMAT,
            "id": getattr(self, "id", ""),
            "version": self.version,
            "method": self.method,
            "seed": self.seed,
            "cohort": cohort,
            "fitted": settings,
            "history": self.history,
        }
        genes = "".join(f"{gene}\n" for gene in self.genes)
        return arrays, {"config.json": self.config, "metadata.json": metadata, "genes.txt": genes}

    def _digest(self) -> str:
        """Return an identity that follows from what the model computes, not from when or where it was fitted."""
        arrays, files = self._content()
        return _digest_of(arrays, files["metadata.json"], self.config, self.genes)


def _digest_of(
    arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], config: Mapping[str, Any], genes: np.ndarray
) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    facts = {key: meta[key] for key in ("method", "seed", "cohort", "fitted")}
    digest.update(json.dumps([facts, config, list(map(str, genes))], sort_keys=True).encode())
    return digest.hexdigest()[:12]


def _check_same(path: Path, computed: str, recorded: str) -> None:
    if computed != recorded:
        raise ValueError(
            f"The files in {path} do not belong together: {WEIGHTS}, config.json, metadata.json and genes.txt make model {computed}, "
            f"and metadata.json says {recorded}."
        )


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{prefix}."): array for name, array in arrays.items() if name.startswith(f"{prefix}.")}
