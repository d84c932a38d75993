"""What the figures mean and what they flatter: the same words on every report."""

from __future__ import annotations

MEANING = {
    "clean": "share of the pictures that did not show it before, in which afterwards the judge sees what was asked for and no "
    "other attribute has changed: the sentence did what it said and nothing else",
    "success": "share of the same pictures in which the judge sees what was asked for, whatever else changed",
    "leak": "share of the other attributes that changed, among those the judge is sure of before and after",
    "identity": "cosine between the recogniser's vectors of a picture before and after; 1 is the same person",
    "drift": "root mean square change of the pixels, 0 to 1; a large background counts for much",
    "seconds": "for one sentence on all pictures, with everything that is computed for that sentence (a mapper's training, a "
    "direction), and without what is computed once for a generator",
}
CLEANLY = (
    "Every sentence is tried on the same people (seeds). A picture counts for a sentence if the judge can see the attribute "
    "and does not see what is asked for yet. The judge is a network that no method has seen in a loss. Means are over sentences, "
    "so each sentence weighs the same."
)
INTERVALS = (
    "Intervals are 95 %. Of means: the pigeonhole bootstrap (Owen, 2007), sentences and people drawn anew independently, 2000 "
    "times; where all pictures agree, Wilson's of all of them. Of a single sentence: Wilson. Differences are paired: the same draws of sentences and people for both."
)
FLATTERS = (
    "The judge, the CLIP and the generator know one small world of drawings. How methods compare on photographs is another "
    "question; nothing here answers it.",
    "The automatic strength's settings were chosen with this judge, on the sentences called tuned (other people); other defaults in the "
    "same world. Read the held-out sentences first. They were held out when the settings were chosen and have been looked at "
    "since: they wear out.",
    "All sentences are in words the small CLIP was trained on. What anybody else might say is not asked here.",
    "Leak sees decisions only. A shirt that turns from one blue to another, a moved head, a lost outline or a changed nose go "
    "unseen; a mouth smeared until nobody can read it is no longer compared, and costs only coverage.",
    "The judge makes mistakes. The control “shift” moves every picture by one pixel: what it leaks is noise of the judge, "
    "which every method that draws the whole picture anew pays as well.",
    "Success asks for the most probable value. A faint smile that the judge just prefers counts like a broad one.",
    "Identity is measured by the recogniser that some methods (direction, optimize, mapper, all at automatic strength) also use as a "
    "guard. It flatters them.",
    "An attribute that a wish hides by nature (hair colour under a hat) is not compared, so hats leak less than they change.",
    "Starting pictures are the generator's own. Pictures of somebody's own have to be inverted first, and edits do worse there.",
    "Best, median and worst are ordered by the judge: probability of what was asked for minus share of leaks. Where the judge errs, so "
    "does the order. Of a sentence at most one picture is shown each.",
    "Seconds depend on the machine and on what ran beside; compare them only within one machine.",
)
DOMAINS = {
    "KID": "distance between the child's pictures and new real drawings of the domain (kernel distance of the domain judge's features; "
    "0 is no difference). Comparable only with figures by the same judge; ± is the deviation between subsets",
    "target": "share of its pictures that the judge takes for the domain",
    "source": "share still taken for the parent's",
    "diversity": "mean distance between pictures of a cluster, against that of the real drawings; 1 is as varied, 0 collapsed",
}
