"""Texts of a report beside its figures and tables."""

__all__ = ["TEXTS"]

_TEXTS = {
    "opening": """
        This page says how well galaxies are measured. {count} galaxies of known parameters were measured, and the
        results are laid beside the truth, beside the Cramer-Rao bound (the least scatter that any estimator without
        bias can have) and beside what others published.
    """,
    "counts": """
        Nothing is left out silently: galaxies without a row or without a measurement are counted here and enter no
        other number. Flagged galaxies do enter. The time is that of the clock for all of the estimator, its start
        included, on this machine.
    """,
    "rmse": """
        Root mean square of measured minus true over all measured galaxies, with bootstrap errors. r_eff is the
        circularised half-light radius, r_eff_major the semi-major one, g1 and g2 are the reduced shear, x and y the
        centre, q is the axis ratio, theta the position angle, which means nothing where a galaxy is nearly round;
        flux_relative and r_eff_relative are divided by the truth.
    """,
    "limit": """
        No estimator can beat the exact posterior mean on average over such galaxies; its numbers come from the
        exact likelihood and prior of 500 others.
    """,
    "published": """
        Published numbers are of the authors' own galaxies, drawn alike.
    """,
    "truth": """
        F is the flux, n the Sersic index. Points on the line are right. A cloud that leans towards the middle is what a
        posterior mean does where the data say little: it has a smaller error on average, and a bias at each truth.
    """,
    "predicted": """
        {name}: measured against true values, coloured by S/N. Bright galaxies are drawn last.
    """,
    "errors": """
        Distributions of measured minus true. What lies beyond the panel is collected in its outermost bins.
    """,
    "trends": """
        Thick lines: robust scatter (half of the interval from 16 to 84 %). Thin lines: median difference, with its
        error. Dashed: the median Cramer-Rao bound of the galaxies in the bin. Bins hold equal numbers of galaxies.
    """,
    "limits": """
        1 is the Cramer-Rao bound. An estimator without bias cannot be below it. A posterior mean can: it knows the
        prior, and trades scatter for bias. So can a fit, where its parameters are held by their bounds.
    """,
    "limits figure": """
        Left: typical error over the Cramer-Rao bound of the same galaxy. Right, where it is known: root mean square
        error over that of the exact posterior mean, which no estimator can beat. Bars are bootstrap errors.
    """,
    "limits table": """
        Typical: half of the 16 to 84 % interval of (measured - true) / bound. Scatter: standard deviation over the
        root mean square of the bounds, which few galaxies decide. Last: root mean square over that of the exact
        posterior mean, where it is known.
    """,
    "pulls": """
        Pulls, (measured - true) / error, beside the unit Gaussian (dashed) that right Gaussian errors give.
    """,
    "calibration": """
        Fraction of truths within central intervals, minus the credibility of these: zero if errors are right, below
        zero if they are too small. Posterior draws are used where there are some; else the quantiles, with half a
        Gaussian to either side of the median; else Gaussian errors. The grey band is what chance does in 95 of 100
        cases, at each credibility.
    """,
    "error bars": """
        Right errors have a mean pull of 0, a standard deviation of 1, and hold 0.683 and 0.954 of the truths. Within 1
        sigma: between the 16 and 84 % quantiles, where there are some.
    """,
    "posteriors": """
        If they are, the rank of the truth among draws from its posterior is as likely to be any number as any other
        (simulation-based calibration), and joint regions of every credibility hold the fraction of truths that they
        promise (TARP). A hill means posteriors too wide, a bowl too narrow, a slope a bias. Both tests take the
        galaxies here as drawn from the prior: a network trained on a broader prior is right about that prior, and need
        not be about this sample.
    """,
    "ranks": """
        {name}: ranks of the truths. The grey band holds 99 % of the bins if posteriors are right; p is the chance of
        ranks as uneven as these. Of a parameter that is the same in all galaxies (the centre in the study's sets) they
        need not be even.
    """,
    "expected coverage": """
        Expected coverage of the joint posterior of all parameters that are not the same in all galaxies. Shades are two
        bootstrap errors.
    """,
    "quantiles": """
        Fraction of truths below the quantiles of their posteriors, 0.159, 0.500 and 0.841 if these are right, and the
        chance p of fractions as far off: ranks in four bins, which need no draws. Refined posteriors are tested by them
        alone, because their draws cost as much again as their measurement.
    """,
    "refinement": """
        A refined posterior is a set of draws of the network, weighted with the likelihood of the pixels and the prior.
        ess is the number of equally weighted draws that would be worth as much. The network knew a galaxy well where
        ess / draws is large; below 0.05 hardly anything of its posterior was of use.
    """,
    "refinement table": """
        Fractions are of all galaxies. poor_proposal: too few effective draws, or another method than
        neural+importance, which is the exact posterior from draws of the network. lsq+importance: the same from draws
        about least squares; lsq: least squares; neural: the network alone. The log evidence is the natural logarithm of
        the integral of likelihood times prior; it compares models of the same pixels.
    """,
    "refinement gain": """
        Root mean square error of the refined estimate over that of the plain one, on the same galaxies: below 1 where
        the refinement gains. Bootstrap errors, in which the chance that both share cancels.
    """,
    "reference": """
        The reference galaxy has flux 1e5, n 3, r_eff 0.3 arcsec, g1 -0.069, g2 0.15. It is drawn many times with fresh
        noise. Here bias and scatter belong to one truth, and not to a population: a fit without bias can be at the
        bound, and a posterior mean has a bias, by its prior.
    """,
    "reference table": """
        Bias / standard deviation; in brackets the error of the last digits, so that 0.061(7) is 0.061 ± 0.007.
        Published numbers came without errors. First the Cramer-Rao bound: computed here with the centre free, and as
        published. The study gives its autoencoder twice, in its summary and with the module that holds it. The baseline
        fit (GalSim) is the study's method, run here on these draws with the centre fixed. reference.ecsv has all
        numbers.
    """,
    "reference figure": """
        The same in units of the bound: points are biases, bars standard deviations. Open points are published numbers.
        The grey band is the bound: no bar of an estimator without bias can be shorter.
    """,
    "times": """
        Time in this same run, by the clock and of the processor, for both S/N together. The study published {0:.0f} to
        {1:.0f} s per galaxy for its baseline fit, and {2:.0f} galaxies per second for its networks on a server with
        GPUs.
    """,
    "baseline": """
        The study's own numbers of its baseline fit belong to other galaxies: the first 100 of its set 1 with S/N 58 to
        62, and with S/N 28 to 32, all with a noise of 200 electrons. It gives true minus measured; the sign is turned
        here. And it added one and the same noise image to the model in every fit. All fits therefore share one error,
        which does not average out over galaxies, and which grows as the S/N falls: the bias of g2 is that of this
        image.
    """,
    "baseline table": """
        Bias / standard deviation. The second line of each S/N is the bias that the noise image gives to first order,
        with the flux held at the sum of the pixels, where the minimiser leaves it.
    """,
    "images": """
        A few galaxies, from faint to bright: what was measured, the model that the estimate draws, and what is left
        over. A good model leaves noise. Where the noiseless image is known, the last column shows the error of the
        model itself.
    """,
    "images figure": """
        {name}: images on a {scale} scale.
    """,
    "challenge": """
        As Bretonniere et al. and Merlin et al. 2023 (A&A 671, A102 and A101) and their published code define them: the
        bias is the median error, the dispersion its 68 % distance, outliers have an error above {outlier:g}. Their
        galaxies have magnitudes, sizes and noise of their own, so numbers compare only in kind.
    """,
    "files": """
        metrics.ecsv has every number of the statistics below, over all galaxies and in bins of S/N, Sersic index, r_eff
        over the PSF's FWHM and the modulus of the shear, each with its bootstrap error. Every figure is there as PNG
        and PDF, every table as LaTeX; truth.fits and results_*.fits have the galaxies themselves.
    """,
}

TEXTS = {name: " ".join(text.split()) for name, text in _TEXTS.items()}
"""Paragraphs and captions by name."""
