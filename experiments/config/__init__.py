"""Experiment configs: what a config file imports, and the errors and checks that go with it."""

from experiments.config.parts import UserError as UserError
from experiments.config.parts import build as build
from experiments.config.parts import check_argument as check_argument
from experiments.config.parts import check_part as check_part
from experiments.config.parts import check_type as check_type
from experiments.config.parts import data_catalogue as data_catalogue
from experiments.config.parts import nested_kind as nested_kind
from experiments.config.parts import part as part
from experiments.config.parts import takes as takes
from experiments.config.parts import training_examples as training_examples
from experiments.config.parts import unknown as unknown
from experiments.config.validation import check_sizes as check_sizes
from experiments.config.validation import check_training as check_training
from experiments.config.validation import config as config
from experiments.config.validation import validate as validate
from experiments.config.validation import way_of as way_of
