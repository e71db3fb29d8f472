"""Small linear algebra and weighted quantiles, in plain Python."""

from __future__ import annotations

from collections.abc import Sequence

Vector = Sequence[float]


def dot(a: Vector, b: Vector) -> float:
    """The scalar product."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def solve(matrix: Sequence[Vector], right: Vector) -> list[float]:
    """Solve a system of linear equations by elimination with pivots.

    Raises:
        ZeroDivisionError: if it is singular.
    """
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(i + 1, size):
            factor = rows[r][i] / rows[i][i]
            if factor:
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    solution = [0.0] * size
    for i in reversed(range(size)):
        known = sum(rows[i][j] * solution[j] for j in range(i + 1, size))
        solution[i] = (rows[i][size] - known) / rows[i][i]
    return solution


def inverse(matrix: Sequence[Vector]) -> list[list[float]]:
    """The inverse of a symmetric matrix."""
    size = len(matrix)
    return [solve(matrix, [float(i == j) for j in range(size)]) for i in range(size)]


def normal_matrix(features: Sequence[Vector], weights: Vector, ridge: Vector) -> list[list[float]]:
    """X' W X + diag(ridge)."""
    size = len(ridge)
    total = [[ridge[i] if i == j else 0.0 for j in range(size)] for i in range(size)]
    for row, weight in zip(features, weights, strict=True):
        for i in range(size):
            if row[i]:
                scaled = weight * row[i]
                for j in range(size):
                    total[i][j] += scaled * row[j]
    return total


def ridge_regression(
    features: Sequence[Vector], values: Vector, weights: Vector, ridge: Vector
) -> list[float]:
    """The coefficients that minimise the weighted squares plus `ridge` times their own."""
    moments = [0.0] * len(ridge)
    for row, value, weight in zip(features, values, weights, strict=True):
        for i, x in enumerate(row):
            moments[i] += weight * x * value
    return solve(normal_matrix(features, weights, ridge), moments)


def quantile(values: Vector, weights: Vector, share: float) -> float:
    """The weighted quantile, interpolated between the middles of the weights."""
    ordered = sorted(zip(values, weights, strict=True))
    whole = sum(weights)
    places, sofar = [], 0.0
    for value, weight in ordered:
        places.append(((sofar + weight / 2) / whole, value))
        sofar += weight
    below = [p for p in places if p[0] <= share]
    above = [p for p in places if p[0] > share]
    if not below or not above:
        return (below[-1] if below else above[0])[1]
    (x0, y0), (x1, y1) = below[-1], above[0]
    return y0 + (y1 - y0) * (share - x0) / (x1 - x0)
