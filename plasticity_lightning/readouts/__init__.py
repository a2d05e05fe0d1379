"""Linear readouts: losses, closed forms and solvers on fixed features."""
