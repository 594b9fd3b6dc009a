"""Names of the slots that hisdiff reads and writes, in one place."""

from __future__ import annotations

from importlib.metadata import version

VERSION = version("hisdiff")

STEM = "hisdiff"
"""Key in ``uns`` and ``sdata.attrs``, and the stem of every result of the default method."""

# Coordinate systems
GLOBAL = "global"  # pixels of the full-resolution image
UM = "um"  # micrometres; the image's scale to it is the only home of the pixel size

# Tables and elements
TRUTH_TABLE = "truth"
LATTICE_TABLE = "lattice"
LATTICE = "hisdiff_lattice"
TISSUE = "tissue"
NUCLEI = "nuclei"

# var
SELECTED = "hisdiff_selected"

# obsm, obs
EMBEDDING = "hisdiff_embedding"
EMBEDDED_AT = "hisdiff_embedded_at"
SPATIAL = "spatial"
ARRAY_ROW = "array_row"
ARRAY_COL = "array_col"
REGION_KEY = "region"  # obs of tables that hisdiff makes: the element that a row annotates,
INSTANCE_KEY = "instance_id"  # and which of its shapes or labels
Z_UM = "z_um"  # obs of a table, column of shapes: height of aligned sections

# tables finer than the spots
PARENT_SPOT = "spot"  # obs: the nearest measured spot
SPOT_DISTANCE = "spot_distance_um"  # obs: and how far away it is
FINE_STD = "std"
COVERED = "covered"  # obs: the part of a location's area that has values

# columns and frames of regions, clusters and types, on spots or in finer tables
REGION = "hisdiff_region"
TLS = "hisdiff_tls"
EDGE_CORE_OF = "hisdiff_edge_core"
CLUSTER = "hisdiff_cluster"
CELL_TYPE = "hisdiff_cell_type"
MARKER_SCORES = "hisdiff_marker_scores"
METAGENES = "hisdiff_metagenes"

# uns["hisdiff"][...]
EMBEDDING_RECORD = "embedding"
PREDICTIONS = "predictions"
DIGEST = "digest"  # in the record of a prediction: of all that decides its values
REGIONS = "regions"
EDGE_CORE = "edge_core"
COEXPRESSION = "coexpression"
ENRICHMENT = "enrichment"
ENRICHMENT_RECORD = "enrichment_record"
GENES = "genes"
AGGREGATED = "aggregated"
TYPE_ENRICHMENT = "type_enrichment"
REGION_CONTRAST = "region_contrast"
METAGENE_PROFILES = "metagenes"
BIN_UM = "bin_um"  # side of the bins that the rows of a table are
PANEL_OF = "panel_of"  # the table of spots that a panel table was made of
IN_X = "in_x"  # of several predictions of a table that hisdiff made, the one whose mean is X
MEASURED = "measured counts"  # in its place: X is no prediction
NAMES = "names"  # in sdata.attrs["hisdiff"]: what names were before they were cleaned, by the clean one
IN_TISSUE = "in_tissue"  # obs: whether a spot lies on tissue
WRITTEN = "written"  # also in sdata.attrs["hisdiff"]: elements, and slots of a table, that hisdiff wrote
MADE_BY = "made_by"  # also a column of shapes: that hisdiff wrote the whole table or element

# units of a prediction
LOG2 = "log2"
COUNTS = "counts"


def std(stem: str) -> str:
    """Name of the layer that holds the spread over draws."""
    return f"{stem}_std"


def draw(stem: str, index: int) -> str:
    """Name of the layer that holds one draw."""
    return f"{stem}_draw{index}"


def fine_draw(index: int) -> str:
    """Name of the layer of a table finer than the spots that holds one draw."""
    return f"draw{index}"


def fine_table(stem: str, where: float | str) -> str:
    """Name of the table of a prediction finer than the spots: at bins of ``where`` um, or at an element of that name."""
    return f"{stem}_{where}" if isinstance(where, str) else f"{stem}_{where:g}um"


def bins(table_key: str) -> str:
    """Name of the labels element with the bins of a table."""
    return f"{table_key}_bins"


def modelled(stem: str = STEM) -> str:
    """Name of the ``var`` column that says which genes a prediction covers."""
    return f"{stem}_modelled"


def cv_pcc(stem: str = STEM) -> str:
    """Name of the ``var`` column with the expected accuracy of each gene."""
    return f"{stem}_cv_pcc"


def cv_pcc_norm(stem: str = STEM) -> str:
    """Name of the ``var`` column with the same, library size taken out."""
    return f"{stem}_cv_pcc_norm"


def interval_factor(stem: str = STEM) -> str:
    """Name of the ``var`` column with the factor of each gene's 90 % interval."""
    return f"{stem}_interval_factor"


def gene_modules(stem: str = STEM) -> str:
    """Name of the ``varm`` array with the weights of genes in the cohort's modules."""
    return f"{stem}_gene_modules"


def gene_modules_norm(stem: str = STEM) -> str:
    """Name of the ``varm`` array with their weights in the modules of library-size normalised expression."""
    return f"{stem}_gene_modules_norm"


def ood(stem: str = STEM) -> str:
    """Name of the ``obs`` column that flags patches unlike any that the model was trained on."""
    return f"{stem}_ood"


ALIKE, UNLIKE = "alike", "unlike"
"""What the record of a prediction says of a section: whether it is like the cohort of the model."""
SUGGESTED = "hisdiff_suggested"
"""``obs`` column with the order in which spots are best measured."""


def given(stem: str = STEM) -> str:
    """Name of the ``obs`` column with the spots whose counts the model was adapted to."""
    return f"{stem}_given"


def uncertainty(stem: str = STEM) -> str:
    """Name of the ``obs`` column that says how little is known of a place, relative to left-out training tissue."""
    return f"{stem}_uncertainty"


def coexpression(stem: str = STEM) -> str:
    """Name of the ``varp`` matrix of coexpression."""
    return f"{stem}_coexpression"


def coexpression_fdr(stem: str = STEM) -> str:
    """Name of the ``varp`` matrix of false discovery rates of coexpression."""
    return f"{stem}_coexpression_fdr"


def module(stem: str = STEM) -> str:
    """Name of the ``var`` column with the module of each gene."""
    return f"{stem}_module"


def module_scores(stem: str = STEM) -> str:
    """Name of the ``obsm`` frame with the scores of modules."""
    return f"{stem}_modules"


def pathways(stem: str = STEM) -> str:
    """Name of the ``obsm`` frame with the scores of gene sets."""
    return f"{stem}_pathways"


def ranking(stem: str = STEM) -> str:
    """Name of the ``varm`` frame with the statistic that genes were ranked by."""
    return f"{stem}_ranking"
