from galmeasure.ood.reference import OODReference as OODReference
from galmeasure.ood.reference import load_ood as load_ood
from galmeasure.ood.reference import ood_path as ood_path
