from galmeasure.calibration.quantiles import QuantileCalibration as QuantileCalibration
from galmeasure.ood.typical import TypicalGalaxies as TypicalGalaxies
from galmeasure.ood.typical import load_typical as load_typical
from galmeasure.ood.typical import typical_path as typical_path
