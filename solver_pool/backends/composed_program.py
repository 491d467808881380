"""A Pyomo model as a composition of linear maps, products and functions, with exact derivatives for cyipopt.

Pyomo's own evaluator needs the AMPL solver library, which neither PyPI nor Debian ships.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from solver_pool.errors import UnsupportedProblem
from solver_pool.problem import Array
from solver_pool.solution import Certificate, certify_first_order

Function = Callable[[Array], tuple[Array, Array, Array]]
"""A univariate function: its value, slope and curvature."""


def _exp(u: Array) -> tuple[Array, Array, Array]:
    e = np.exp(u)
    return e, e, e


def _log(u: Array) -> tuple[Array, Array, Array]:
    r = 1.0 / u
    return np.log(u), r, -r * r


def _log10(u: Array) -> tuple[Array, Array, Array]:
    return tuple(part / np.log(10.0) for part in _log(u))  # type: ignore[return-value]


def _sin(u: Array) -> tuple[Array, Array, Array]:
    s = np.sin(u)
    return s, np.cos(u), -s


def _cos(u: Array) -> tuple[Array, Array, Array]:
    c = np.cos(u)
    return c, -np.sin(u), -c


def _tan(u: Array) -> tuple[Array, Array, Array]:
    t = np.tan(u)
    s = 1.0 + t * t
    return t, s, 2.0 * t * s


def _sinh(u: Array) -> tuple[Array, Array, Array]:
    s = np.sinh(u)
    return s, np.cosh(u), s


def _cosh(u: Array) -> tuple[Array, Array, Array]:
    c = np.cosh(u)
    return c, np.sinh(u), c


def _tanh(u: Array) -> tuple[Array, Array, Array]:
    t = np.tanh(u)
    s = 1.0 - t * t
    return t, s, -2.0 * t * s


def _atan(u: Array) -> tuple[Array, Array, Array]:
    s = 1.0 / (1.0 + u * u)
    return np.arctan(u), s, -2.0 * u * s * s


def _asin(u: Array) -> tuple[Array, Array, Array]:
    s = 1.0 / np.sqrt(1.0 - u * u)
    return np.arcsin(u), s, u * s**3


def _acos(u: Array) -> tuple[Array, Array, Array]:
    value, slope, curvature = _asin(u)
    return 0.5 * np.pi - value, -slope, -curvature


def _abs(u: Array) -> tuple[Array, Array, Array]:
    return np.abs(u), np.sign(u), np.zeros_like(u)


FUNCTIONS: dict[str, Function] = {
    "exp": _exp, "log": _log, "log10": _log10, "sin": _sin, "cos": _cos, "tan": _tan, "sinh": _sinh,
    "cosh": _cosh, "tanh": _tanh, "atan": _atan, "asin": _asin, "acos": _acos, "abs": _abs,
}  # fmt: skip
"""The univariate functions by Pyomo's names; powers have their exponent besides."""


def power(p: float) -> Function:
    """``u^p`` with a constant exponent."""

    def function(u: Array) -> tuple[Array, Array, Array]:
        if p == 2.0:
            return u * u, 2.0 * u, np.full_like(u, 2.0)
        if p == -1.0:
            r = 1.0 / u
            return r, -r * r, 2.0 * r * r * r
        return np.power(u, p), p * np.power(u, p - 1.0), p * (p - 1.0) * np.power(u, p - 2.0)

    return function


Form = tuple[dict[int, float], float]
"""A linear form over atoms: coefficients and a constant. Atom ``k >= 0`` is the value of function ``k``, atom
``-1 - k`` is variable ``k``."""


@dataclass(frozen=True)
class Atom:
    """A function of linear forms.

    Attributes:
        name: one of `FUNCTIONS`, ``"power"`` or ``"product"``.
        exponent: of a power; zero for the others.
        arguments: one form, or the two factors of a product.
        depth: one more than that of the deepest atom among the arguments.
    """

    name: str
    exponent: float
    arguments: tuple[Form, ...]
    depth: int


@dataclass(frozen=True)
class _Level:
    """Atoms of one depth and function: ``v[atoms] = f(A v + c)``."""

    function: Function
    atoms: NDArray[np.intp]
    A: sparse.csr_array
    c: Array


@dataclass(frozen=True)
class _Products:
    """Products of one depth: ``v[atoms] = (A v + a) * (B v + b)``."""

    atoms: NDArray[np.intp]
    A: sparse.csr_array
    a: Array
    B: sparse.csr_array
    b: Array


class ComposedProgram:
    """A Pyomo model made of linear maps, products and univariate functions, as cyipopt's callbacks.

    It minimises ``sign`` times the model's one active objective.

    With atoms ``v = (x, f_1(A_1 v + c_1), f_2(A_2 v + c_2), ...)`` the functions are ``F = C v + d``, and::

        dF/dx = C J,     J = (I, diag(f_k') A_k J, ...)
        sum_i y_i d2F_i/dx2 = sum_k (A_k J)' diag(g_k f_k'') (A_k J),   g = adjoint of the atoms under C'y

    and for products ``v_k = (A_k v + a_k)(B_k v + b_k)``, with the factors' values ``p`` and ``q``::

        J_k = diag(q) A_k J + diag(p) B_k J,   curvature  (A_k J)' diag(g_k) (B_k J) + its transpose

    Constraints without a free variable are no constraints of the program: `constant_violation` has the largest
    violation among them.

    Attributes:
        variables: the unfixed Pyomo variables that occur, in the order of ``x (n,)``.
        constraints_of: the Pyomo constraints, in the order of the functions after the first.
        objective_form, row_forms, atoms: the functions themselves, as linear forms over atoms.
        sign: 1 for a model that minimises, -1 for one that maximises.
        linear: whether every constraint is.
        low, high: bounds of the variables ``(n,)``; infinite entries mean no bound.
        row_low, row_high: sides of the constraints ``(m,)``; infinite entries mean no side.
        evaluation_time: [s] of CPU spent in the callbacks.

    Raises:
        UnsupportedProblem: for an expression that is not such a composition.
    """

    def __init__(self, model: Any, deadline: float = np.inf) -> None:
        self._pyo = pyo = import_module("pyomo.environ")
        self.deadline, self.iterations, self.evaluation_time = deadline, 0, 0.0
        self.variables: list[Any] = []
        self._index: dict[int, int] = {}
        self._named: dict[int, Form] = {}
        self.atoms: list[Atom] = []
        (objective,) = model.component_data_objects(pyo.Objective, active=True, descend_into=True)
        self.sign = 1.0 if objective.sense == pyo.minimize else -1.0
        self.objective_form = self._form(objective.expr)
        self.constraints_of: list[Any] = []
        self.row_forms: list[Form] = []
        self.constant_violation = 0.0
        row_low, row_high = [], []
        for constraint in model.component_data_objects(pyo.Constraint, active=True, descend_into=True):
            sides = pyo.value(constraint.lower), pyo.value(constraint.upper)
            low, high = -np.inf if sides[0] is None else sides[0], np.inf if sides[1] is None else sides[1]
            form = self._form(constraint.body)
            if not form[0]:
                self.constant_violation = max(self.constant_violation, low - form[1], form[1] - high)
                continue
            self.constraints_of.append(constraint)
            self.row_forms.append(form)
            row_low.append(low)
            row_high.append(high)
        forms = [self.objective_form, *self.row_forms]
        n = len(self.variables)
        atoms = n + len(self.atoms)
        self.low = np.array([-np.inf if v.lb is None else v.lb for v in self.variables], dtype=np.float64)
        self.high = np.array([np.inf if v.ub is None else v.ub for v in self.variables], dtype=np.float64)
        self.row_low, self.row_high = (
            np.array(row_low, dtype=np.float64),
            np.array(row_high, dtype=np.float64),
        )
        self.linear = not any(atom >= 0 for form in self.row_forms for atom in form[0])
        self._C, self._d = _matrix(forms, n, atoms)

        grouped: dict[tuple[int, str, float], list[int]] = {}
        for k, atom in enumerate(self.atoms):
            grouped.setdefault((atom.depth, atom.name, atom.exponent), []).append(k)
        self._levels: list[_Level | _Products] = []
        for (_, name, exponent), members in sorted(grouped.items()):
            places = n + np.array(members, dtype=np.intp)
            factors = [
                _matrix([self.atoms[k].arguments[i] for k in members], n, atoms)
                for i in range(len(self.atoms[members[0]].arguments))
            ]
            if name == "product":
                self._levels.append(_Products(places, *factors[0], *factors[1]))
            else:
                function = power(exponent) if name == "power" else FUNCTIONS[name]
                self._levels.append(_Level(function, places, *factors[0]))
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
        if kind == "NegationExpression":
            return _scaled(-1.0, self._form(arguments[0]))
        if kind in ("ProductExpression", "MonomialTermExpression"):
            return self._product(self._form(arguments[0]), self._form(arguments[1]))
        if kind == "DivisionExpression":
            numerator, denominator = self._form(arguments[0]), self._form(arguments[1])
            return self._product(numerator, self._power(denominator, -1.0))
        if kind == "PowExpression":
            base, exponent = self._form(arguments[0]), self._form(arguments[1])
            if not exponent[0]:
                return self._power(base, exponent[1])
            return self._atom("exp", self._product(exponent, self._atom("log", base)))
        if kind == "AbsExpression":
            return self._atom("abs", self._form(arguments[0]))
        if kind == "UnaryFunctionExpression":
            name = expression.getname()
            if name == "sqrt":
                return self._power(self._form(arguments[0]), 0.5)
            if name in FUNCTIONS:
                return self._atom(name, self._form(arguments[0]))
            kind = f"{name}()"
        raise UnsupportedProblem(
            f"model: has a {kind}; sums, products, quotients, powers, {', '.join(FUNCTIONS)} and sqrt can be "
            "evaluated. Write it with those."
        )

    def _product(self, left: Form, right: Form) -> Form:
        if not left[0]:
            return _scaled(left[1], right)
        if not right[0]:
            return _scaled(right[1], left)
        return self._power(left, 2.0) if left == right else self._atom("product", left, right)

    def _power(self, base: Form, exponent: float) -> Form:
        if exponent in (0.0, 1.0):
            return base if exponent else ({}, 1.0)
        return self._atom("power", base, exponent=exponent)

    def _atom(self, name: str, *arguments: Form, exponent: float = 0.0) -> Form:
        if not any(form[0] for form in arguments):
            with np.errstate(all="ignore"):  # outside the function's domain the value is NaN, and refused
                function = power(exponent) if name == "power" else FUNCTIONS[name]
                return {}, float(function(np.array([arguments[0][1]]))[0][0])
        below = (self.atoms[atom].depth for form in arguments for atom in form[0] if atom >= 0)
        self.atoms.append(Atom(name, exponent, arguments, 1 + max(below, default=0)))
        return {len(self.atoms) - 1: 1.0}, 0.0

    def _structure(self, n: int, atoms: int) -> None:
        """Which entries of the Jacobian and the Hessian can be nonzero."""
        J: Any = _scatter(sparse.eye_array(n, format="csr"), np.arange(n), atoms)
        hessian = sparse.csr_array((n, n))
        for level in self._levels:
            inner = abs(level.A) @ J
            if isinstance(level, _Products):
                other = abs(level.B) @ J
                hessian = hessian + inner.T @ other + other.T @ inner
                inner = inner + other
            else:
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
        self._steps: list[tuple[Any, ...]] = []
        with np.errstate(all="ignore"):  # Ipopt shortens a step that leads to infinity or NaN
            for level in self._levels:
                inner = level.A @ J
                if isinstance(level, _Products):
                    p, q, other = level.A @ v + level.a, level.B @ v + level.b, level.B @ J
                    v[level.atoms] = p * q
                    rows = sparse.diags_array(q) @ inner + sparse.diags_array(p) @ other
                    self._steps.append((level, inner, other, p, q))
                else:
                    v[level.atoms], slope, curvature = level.function(level.A @ v + level.c)
                    rows = sparse.diags_array(slope) @ inner
                    self._steps.append((level, inner, slope, curvature))
                J = J + _scatter(rows, level.atoms, v.shape[0])
            self._values = self._C @ v + self._d
            self._jacobian = (self._C @ J).toarray()
        self._at = key
        self.evaluation_time += time.process_time() - started

    def value(self, x: Array) -> float:
        """The model's objective at ``x (n,)``, in the model's own sense."""
        self._evaluate(x)
        return float(self._values[0])

    def objective(self, x: Array) -> float:
        return self.sign * self.value(x)

    def gradient(self, x: Array) -> Array:
        self._evaluate(x)
        return self.sign * np.asarray(self._jacobian[0])

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
        adjoint = self._C.T @ np.concatenate([[self.sign * factor], multipliers])
        total = np.zeros((n, n))
        for step in reversed(self._steps):
            if isinstance(step[0], _Products):
                level, inner, other, p, q = step
                g = adjoint[level.atoms]
                half = (inner.T @ (sparse.diags_array(g) @ other)).toarray()
                total += half + half.T
                adjoint = adjoint + level.A.T @ (g * q) + level.B.T @ (g * p)
            else:
                level, inner, slope, curvature = step
                g = adjoint[level.atoms]
                total += (inner.T @ (sparse.diags_array(g * curvature) @ inner)).toarray()
                adjoint = adjoint + level.A.T @ (g * slope)
        self.evaluation_time += time.process_time() - started
        return np.asarray(total[self._hessian_at])

    def intermediate(self, mode: int, iteration: int, *progress: Any) -> bool:
        self.iterations = iteration
        return time.perf_counter() < self.deadline

    def certify(self, x: Array, row_duals: Array, bound_duals: Array) -> Certificate:
        """The certificate at ``x (n,)`` with multipliers ``(m,)`` and ``(n,)``, positive at upper sides.

        Integrality is not looked at. The gap is infinite, as the model need not be convex.
        """
        self._evaluate(x)
        sides = (self.row_low, self.row_high, self.low, self.high)
        return certify_first_order(
            self.gradient(x),
            self._jacobian[1:],
            self._values[1:],
            sides,
            x,
            row_duals,
            bound_duals,
            convex=False,
        )


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
