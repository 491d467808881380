"""A Pyomo model made of linear maps and univariate functions, evaluated with exact derivatives for cyipopt."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from solver_pool.backends import ipopt
from solver_pool.errors import UnsupportedProblem
from solver_pool.problem import Array

Function = Callable[[Array], tuple[Array, Array, Array]]
"""A univariate function: its value, slope and curvature."""


def _exp(u: Array) -> tuple[Array, Array, Array]:
    e = np.exp(u)
    return e, e, e


def _log(u: Array) -> tuple[Array, Array, Array]:
    r = 1.0 / u
    return np.log(u), r, -r * r


def _tanh(u: Array) -> tuple[Array, Array, Array]:
    t = np.tanh(u)
    s = 1.0 - t * t
    return t, s, -2.0 * t * s


def _reciprocal(u: Array) -> tuple[Array, Array, Array]:
    r = 1.0 / u
    return r, -r * r, 2.0 * r * r * r


FUNCTIONS: dict[str, Function] = {"exp": _exp, "log": _log, "tanh": _tanh, "reciprocal": _reciprocal}

Form = tuple[dict[int, float], float]
"""A linear form over atoms: coefficients and a constant. Atom ``k >= 0`` is the value of function ``k``, atom
``-1 - k`` is variable ``k``."""


@dataclass(frozen=True)
class _Level:
    """Atoms of one depth and function: ``v[atoms] = f(A v + c)``."""

    function: Function
    atoms: NDArray[np.intp]
    A: sparse.csr_array
    c: Array


class ComposedProgram:
    """A Pyomo model made of linear maps and univariate functions, as cyipopt's callbacks.

    It minimises the negative of the model's objective ``value``.

    With atoms ``v = (x, f_1(A_1 v + c_1), f_2(A_2 v + c_2), ...)`` the functions are ``F = C v + d``, and::

        dF/dx = C J,     J = (I, diag(f_k') A_k J, ...)
        sum_i y_i d2F_i/dx2 = sum_k (A_k J)' diag(g_k f_k'') (A_k J),   g = adjoint of the atoms under C'y

    Attributes:
        variables: the unfixed Pyomo variables, in the order of ``x (n,)``.
        constraints_of: the Pyomo constraints, in the order of the functions after the first.
        low, high: bounds of the variables ``(n,)``.
        row_low, row_high: sides of the constraints ``(m,)``.
        evaluation_time: [s] of CPU spent in the callbacks.
    """

    def __init__(self, model: Any, deadline: float = np.inf) -> None:
        self._pyo = pyo = import_module("pyomo.environ")
        self.deadline, self.iterations, self.evaluation_time = deadline, 0, 0.0
        self.variables: list[Any] = []
        self._index: dict[int, int] = {}
        self._named: dict[int, Form] = {}
        self._functions: list[tuple[str, Form, int]] = []
        constraints = list(model.component_data_objects(pyo.Constraint, active=True, descend_into=True))
        forms = [self._form(expression) for expression in (model.value.expr, *(c.body for c in constraints))]
        self.constraints_of = constraints
        n = len(self.variables)
        atoms = n + len(self._functions)
        self.low = np.array([-ipopt.INFINITE if v.lb is None else v.lb for v in self.variables])
        self.high = np.array([ipopt.INFINITE if v.ub is None else v.ub for v in self.variables])
        sides = [(pyo.value(c.lower), pyo.value(c.upper)) for c in constraints]
        self.row_low = np.array([-ipopt.INFINITE if a is None else a for a, _ in sides], dtype=np.float64)
        self.row_high = np.array([ipopt.INFINITE if b is None else b for _, b in sides], dtype=np.float64)
        self._C, self._d = _matrix(forms, n, atoms)

        grouped: dict[tuple[int, str], list[int]] = {}
        for k, (name, _, depth) in enumerate(self._functions):
            grouped.setdefault((depth, name), []).append(k)
        self._levels = []
        for (_, name), members in sorted(grouped.items()):
            A, c = _matrix([self._functions[k][1] for k in members], n, atoms)
            self._levels.append(_Level(FUNCTIONS[name], n + np.array(members, dtype=np.intp), A, c))
        self._structure(n, atoms)
        self._at = b""

    def _form(self, expression: Any) -> Form:
        """The linear form of an expression; functions become atoms."""
        if isinstance(expression, (int, float)):
            return {}, float(expression)
        if expression.is_variable_type():
            if expression.fixed:
                return {}, float(expression.value)
            if id(expression) not in self._index:
                self._index[id(expression)] = len(self.variables)
                self.variables.append(expression)
            return {-1 - self._index[id(expression)]: 1.0}, 0.0
        if not expression.is_potentially_variable():
            return {}, float(self._pyo.value(expression))
        if expression.is_named_expression_type():
            # One atom for a named expression however often it is used: reduced space is a graph, not a tree.
            if id(expression) not in self._named:
                self._named[id(expression)] = self._form(expression.expr)
            return self._named[id(expression)]
        kind, arguments = expression.__class__.__name__, expression.args
        if kind in ("SumExpression", "LinearExpression"):
            total: dict[int, float] = {}
            constant = 0.0
            for argument in arguments:
                coefficients, c = self._form(argument)
                constant += c
                for atom, value in coefficients.items():
                    total[atom] = total.get(atom, 0.0) + value
            return total, constant
        if kind in ("NegationExpression",):
            return _scaled(-1.0, self._form(arguments[0]))
        if kind in ("ProductExpression", "MonomialTermExpression"):
            left, right = self._form(arguments[0]), self._form(arguments[1])
            if left[0] and right[0]:
                raise UnsupportedProblem(
                    "The model has a product of variables; only compositions are evaluated."
                )
            return _scaled(right[1], left) if left[0] else _scaled(left[1], right)
        if kind == "DivisionExpression":
            numerator, denominator = self._form(arguments[0]), self._form(arguments[1])
            if not denominator[0]:
                return _scaled(1.0 / denominator[1], numerator)
            if not numerator[0]:
                return _scaled(numerator[1], self._atom("reciprocal", denominator))
        if kind == "UnaryFunctionExpression" and expression.getname() in FUNCTIONS:
            return self._atom(expression.getname(), self._form(arguments[0]))
        raise UnsupportedProblem(
            f"The model has a {kind}; only linear maps, exp, log, tanh and 1/x are evaluated."
        )

    def _atom(self, name: str, form: Form) -> Form:
        depth = 1 + max((self._functions[atom][2] for atom in form[0] if atom >= 0), default=0)
        self._functions.append((name, form, depth))
        return {len(self._functions) - 1: 1.0}, 0.0

    def _structure(self, n: int, atoms: int) -> None:
        """Which entries of the Jacobian and the Hessian can be nonzero."""
        J: Any = _scatter(sparse.eye_array(n, format="csr"), np.arange(n), atoms)
        hessian = sparse.csr_array((n, n))
        for level in self._levels:
            inner = abs(level.A) @ J
            hessian = hessian + inner.T @ inner
            J = J + _scatter(inner, level.atoms, atoms)
        jacobian = (abs(self._C) @ J).tocoo()
        keep = jacobian.row > 0
        self._jacobian_at = (jacobian.row[keep] - 1, jacobian.col[keep])
        lower = sparse.tril(hessian).tocoo()
        self._hessian_at = (lower.row, lower.col)

    def _evaluate(self, x: Array) -> None:
        key = x.tobytes()
        if key == self._at:
            return
        started = time.process_time()
        n = x.shape[0]
        v = np.zeros(self._C.shape[1])
        v[:n] = x
        J: Any = _scatter(sparse.eye_array(n, format="csr"), np.arange(n), v.shape[0])
        self._inner, self._slopes, self._curvatures = [], [], []
        with np.errstate(all="ignore"):  # Ipopt shortens a step that leads to infinity or NaN
            for level in self._levels:
                value, slope, curvature = level.function(level.A @ v + level.c)
                v[level.atoms] = value
                inner = level.A @ J
                J = J + _scatter(sparse.diags_array(slope) @ inner, level.atoms, v.shape[0])
                self._inner.append(inner)
                self._slopes.append(slope)
                self._curvatures.append(curvature)
            self._values = self._C @ v + self._d
            self._jacobian = (self._C @ J).toarray()
        self._at = key
        self.evaluation_time += time.process_time() - started

    def objective(self, x: Array) -> float:
        self._evaluate(x)
        return -float(self._values[0])

    def gradient(self, x: Array) -> Array:
        self._evaluate(x)
        return -np.asarray(self._jacobian[0])

    def constraints(self, x: Array) -> Array:
        self._evaluate(x)
        return np.asarray(self._values[1:])

    def jacobianstructure(self) -> tuple[Any, Any]:
        return self._jacobian_at

    def jacobian(self, x: Array) -> Array:
        self._evaluate(x)
        return np.asarray(self._jacobian[1:][self._jacobian_at])

    def hessianstructure(self) -> tuple[Any, Any]:
        return self._hessian_at

    def hessian(self, x: Array, multipliers: Array, factor: float) -> Array:
        self._evaluate(x)
        started = time.process_time()
        n = x.shape[0]
        adjoint = self._C.T @ np.concatenate([[-factor], multipliers])
        total = np.zeros((n, n))
        for level, inner, slope, curvature in reversed(
            list(zip(self._levels, self._inner, self._slopes, self._curvatures, strict=True))
        ):
            g = adjoint[level.atoms]
            total += (inner.T @ (sparse.diags_array(g * curvature) @ inner)).toarray()
            adjoint = adjoint + level.A.T @ (g * slope)
        self.evaluation_time += time.process_time() - started
        return np.asarray(total[self._hessian_at])

    def intermediate(self, mode: int, iteration: int, *progress: Any) -> bool:
        self.iterations = iteration
        return time.perf_counter() < self.deadline


def _scaled(factor: float, form: Form) -> Form:
    return {atom: factor * value for atom, value in form[0].items()}, factor * form[1]


def _matrix(forms: list[Form], n: int, atoms: int) -> tuple[sparse.csr_array, Array]:
    """The forms as ``A v + c``, where `v` has the `n` variables first."""
    rows = np.repeat(np.arange(len(forms)), [len(f[0]) for f in forms])
    columns = np.array([atom for f in forms for atom in f[0]], dtype=np.intp)
    columns = np.where(columns < 0, -1 - columns, n + columns)
    values = np.array([value for f in forms for value in f[0].values()], dtype=np.float64)
    A = sparse.csr_array((values, (rows, columns)), shape=(len(forms), atoms))
    return A, np.array([f[1] for f in forms], dtype=np.float64)


def _scatter(A: Any, atoms: NDArray[np.intp], size: int) -> sparse.csr_array:
    """The rows of `A` at the places `atoms` of a matrix with `size` rows."""
    coordinates = A.tocoo()
    return sparse.csr_array(
        (coordinates.data, (atoms[coordinates.row], coordinates.col)), shape=(size, A.shape[1])
    )
