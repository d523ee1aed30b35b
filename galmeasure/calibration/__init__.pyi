from galmeasure.calibration.quantiles import QuantileCalibration as QuantileCalibration
from galmeasure.ood.reference import OODReference as OODReference
from galmeasure.ood.reference import TypicalGalaxies as TypicalGalaxies
from galmeasure.ood.reference import load_ood as load_ood
from galmeasure.ood.reference import load_typical as load_typical
from galmeasure.ood.reference import ood_path as ood_path
from galmeasure.ood.reference import typical_path as typical_path
