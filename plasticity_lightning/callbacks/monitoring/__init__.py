"""The parts of `PlasticityMonitor`: what to watch, how it is collected, how it is shown. `plasticity diagnose` uses them too."""
