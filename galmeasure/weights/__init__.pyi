from galmeasure.weights.cards import Weights as Weights
from galmeasure.weights.cards import prior_domain as prior_domain
from galmeasure.weights.files import load_network as load_network
from galmeasure.weights.files import save_weights as save_weights
from galmeasure.weights.registry import DEFAULT_WEIGHTS as DEFAULT_WEIGHTS
from galmeasure.weights.registry import get_weights as get_weights
from galmeasure.weights.registry import list_weights as list_weights
