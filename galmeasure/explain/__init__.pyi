from galmeasure.explain.attribution import explain as explain
from galmeasure.explain.explanation import METHODS as METHODS
from galmeasure.explain.explanation import Explanation as Explanation
from galmeasure.explain.optimum import OptimalFilter as OptimalFilter
from galmeasure.explain.optimum import correlations as correlations
from galmeasure.explain.optimum import optimal_filter as optimal_filter
