"""Plots of comparisons: every contestant can be read off, however many there are."""

import pytest

from experiments.reports import plots

pytest.importorskip("matplotlib")

MASKS = ("", ", retrained", ", shuffled", ", reinit")


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Returns a function that draws a comparison, and returns the figure instead of a file."""
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))

    def draw(compressions):
        labels = [f"method {i}{kind}" for kind in MASKS for i in range(10)]
        points = {
            label: [
                {"test_accuracy": 0.9 + 0.001 * row, "compression": compression}
                for compression in compressions
            ]
            for row, label in enumerate(labels)
        }
        dense = {"dense": [{"test_accuracy": 0.93, "compression": 1.0}]}
        results = {
            "contestants": labels,
            "sparsities": [1 - 1 / compression for compression in compressions],
            "seeds": [{"points": points | dense}],
        }
        assert plots.comparison(results, tmp_path) == ["trade_off.png"]
        (figure,) = figures
        figure.draw_without_rendering()
        return labels, figure

    return draw


def test_contestants_of_one_compression_have_a_row_each(drawn):
    labels, figure = drawn([10.0])
    (ax,) = figure.axes
    assert [tick.get_text() for tick in ax.get_yticklabels()] == labels
    drawn_points = [
        line.get_xydata()[0].tolist() for line in ax.lines if line.get_marker() in "os^DvP"
    ]
    assert drawn_points == [[pytest.approx(90 + 0.1 * row), row] for row in range(len(labels))]
    assert "compression 10" in ax.get_xlabel()


@pytest.mark.parametrize("compressions", [[10.0], [10.0, 50.0]])
def test_no_label_lies_outside_the_figure(drawn, compressions):
    _, figure = drawn(compressions)
    (ax,) = figure.axes
    rows = ax.get_yticklabels() if ax.yaxis_inverted() else []
    for text in [*rows, *ax.get_legend().get_texts(), ax.title]:
        box = text.get_window_extent()
        assert figure.bbox.min[0] <= box.x0 < box.x1 <= figure.bbox.max[0], text.get_text()
        assert figure.bbox.min[1] <= box.y0 < box.y1 <= figure.bbox.max[1], text.get_text()


def test_a_branch_has_one_colour_in_all_panels(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    monkeypatch.setattr(plots.lottery_results, "levels", lambda results: [1.0, 0.5])
    branches_of_levels = [["reinit", "shuffled"], ["ticket", "reinit", "shuffled"]]
    lines = [
        {"level": level, "branch": branch, "errors": [0.1, 0.2, 0.1]}
        for level, branches in enumerate(branches_of_levels)
        for branch in branches
    ]
    plots.branches({"seeds": [{"lines": lines}]}, tmp_path)
    first, second = (
        {line.get_label(): line.get_color() for line in panel.get_lines()}
        for panel in figures[0].axes
    )
    assert len(set(second.values())) == 3
    assert first == {name: second[name] for name in first}
