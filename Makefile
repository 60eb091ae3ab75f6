# `make demo` and `make test` need nothing but Python 3.10 to 3.12 and a C++ compiler.
PYTHON ?= python3
VENV := .venv

# A sourced ROS brings its own rclpy and message generators; elsewhere they come as wheels.
ifdef ROS_DISTRO
EXTRAS := dev,docs,sim,interfaces
STAMP := $(VENV)/.setup-sourced-$(ROS_DISTRO)
else
EXTRAS := dev,docs,sim,interfaces,ros
STAMP := $(VENV)/.setup-wheels
endif
SETUP_INPUTS := setup.py pyproject.toml constraints.txt package.xml CMakeLists.txt \
  tools/build_interfaces.py msg srv action $(wildcard msg/*.msg srv/*.srv action/*.action)

.PHONY: setup demo test test-system lint bench clean distclean
.DEFAULT_GOAL := demo

setup: $(STAMP)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || { \
	  echo "Python 3.10 to 3.12 is needed, such as: make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(SETUP_INPUTS) | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[$(EXTRAS)]'
	$(VENV)/bin/python tools/build_interfaces.py --if-possible
	@rm -f $(VENV)/.setup-*
	@touch $@

demo: setup
	$(VENV)/bin/gbopt demo --out demo-output

# A test of its own: `.venv/bin/python -m pytest test/unit/test_masks.py`.
test: setup
	$(VENV)/bin/python -m pytest --numprocesses auto --dist worksteal

# Whole runs of the package, 25 minutes on 2 cores. One process: each test needs the machine.
test-system: setup
	$(VENV)/bin/python -m pytest test/system

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The site, in the folder `site`: the pages of docs/ and the Python reference. Broken links fail.
.PHONY: docs
docs: setup
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

bench: setup
	@for name in stages networks selection live_graph; do \
	  echo "== $$name"; $(VENV)/bin/python -m benchmarks.$$name --quick || exit 1; \
	done

# The environment stays; the messages are built anew by the next setup.
clean:
	rm -rf build dist *.egg-info demo-output benchmark-output site gbopt_ros/msg gbopt_ros/srv gbopt_ros/action gbopt_ros/*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find benchmarks examples experiments gbopt_ros test tools -name __pycache__ -prune -exec rm -rf {} +
	rm -f $(VENV)/.setup-*

distclean: clean
	rm -rf $(VENV)
