"""How every figure looks: the one place where colours, line styles, sizes, fonts and names are set.

Colours are Okabe and Ito's, told apart by colour-blind readers; what a colour says, a marker says as well, so
that the figures survive a black and white printer. Sizes are in points at the printed width, a paper's column.
"""

from contextlib import AbstractContextManager
from typing import Any

import matplotlib.style
import seaborn

WIDTH = 5.5  # inches, one column of the paper
ROW_HEIGHT = 1.6  # inches, one row of panels
MARGIN_HEIGHT = 0.75  # inches: title and axis labels of a figure
LEGEND_HEIGHT = 0.165  # inches, one row of the legend below the panels
LEFT = 0.012  # where titles and notes start, as a share of the width
NOTE_HEIGHT = 0.135  # inches, one line of the note at the foot
NOTE_WIDTH = 116  # characters in such a line
LEGEND_COLUMNS = 5  # a longer legend takes two lines
PADS = {"w_pad": 0.04, "h_pad": 0.03}  # inches, around panels

BLACK, BLUE, SKY, GREEN = "#000000", "#0072B2", "#56B4E9", "#009E73"
ORANGE, VERMILLION, PURPLE, GREY = "#E69F00", "#D55E00", "#CC79A7", "#666666"

# What a column's values are called.
NAMES: dict[str, str] = {
    "add": "add",
    "sub": "subtract",
    "adamw": "AdamW",
    "adam": "Adam",
    "scratch": "from scratch",
    "distilled": "distilled",
    "supervised": "supervised",
    "p1": "on $p_1$",
    "p2": "on $p_2$",
}

# Keyed by what is shown: a training fraction, an operator, or the prime on which accuracy is measured.
COLOURS: dict[Any, str] = {
    0.35: BLACK,
    0.30: BLUE,
    0.25: GREEN,
    0.20: VERMILLION,
    0.10: PURPLE,
    "add": BLUE,
    "sub": VERMILLION,
    "p1": ORANGE,
    "p2": BLUE,
}
MARKERS: dict[Any, str] = {
    0.35: "o",
    0.30: "s",
    0.25: "D",
    0.20: "^",
    0.10: "v",
    "add": "o",
    "sub": "^",
    "p1": "s",
    "p2": "o",
}
SOLID, DASHED, DOTTED = "solid", (0, (4, 1.6)), (0, (1, 1.2))
DASHES: dict[str, Any] = {
    "distilled": SOLID,
    "scratch": DASHED,
    "supervised": DASHED,
    "adamw": SOLID,
    "adam": DOTTED,
    "p2": SOLID,
    "p1": DOTTED,
}

LINE: dict[str, Any] = {"linewidth": 1.3, "zorder": 3, "markersize": 3.8, "markeredgewidth": 0}
FAINT: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.35, "zorder": 2}
ALONE: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.8, "zorder": 2.5}
BAND: dict[str, Any] = {"alpha": 0.18, "linewidth": 0, "zorder": 1.5}
THRESHOLD: dict[str, Any] = {"color": GREY, "linewidth": 0.5, "alpha": 0.5, "zorder": 1}
REFERENCE: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "zorder": 1}
REFERENCE_DASHES = ((0, (8, 2, 1, 2)), (0, (1, 1.5)))
GROK: dict[str, Any] = {
    "marker": "*",
    "markersize": 7,
    "markeredgecolor": "white",
    "markeredgewidth": 0.4,
    "linestyle": "none",
    "zorder": 5,
}
DIVERGED: dict[str, Any] = {
    "marker": "x",
    "markersize": 5,
    "markeredgewidth": 1.3,
    "linestyle": "none",
    "zorder": 5,
}
NOTE: dict[str, Any] = {"fontsize": 7, "color": GREY}
ABSENT: dict[str, Any] = {"fontsize": 9, "color": GREY, "style": "italic"}
TITLE: dict[str, Any] = {"fontsize": 9, "fontweight": "bold"}

# Keeps matplotlib from stamping its version and the time into a file.
METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}

RC: dict[str, Any] = seaborn.axes_style("ticks") | {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same letters on every machine
    "mathtext.fontset": "dejavusans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.borderaxespad": 0,
    "legend.borderpad": 0.1,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.4,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.width": 0.4,
    "xtick.minor.size": 1.6,
    "figure.dpi": 300,
    "pdf.fonttype": 42,
}


def context() -> AbstractContextManager[None]:
    """Draw in this style, whatever the user's own matplotlib settings say."""
    return matplotlib.style.context(["default", RC])
