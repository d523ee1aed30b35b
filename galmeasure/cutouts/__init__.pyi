from galmeasure.cutouts.cutouts import Cutouts as Cutouts
