// The card of a file that was taught in the page: shvit.card reads it.

/**
 * @param {object} card of the model whose features the head reads
 * @param {object} about `name`, `precision`, `backbone`, `channels` of the features, `head` of the project, and
 *   `verification`, null before the file was run
 */
export function taughtCard(card, { name, precision, backbone, channels, head, verification }) {
  const { labels, images, accuracy, low, high, created, temperature } = head;
  // What another head changes of the network's size, where the card says what it was.
  const resized = (known, each) => (known == null ? null : known + each * (labels.length - card.classes.length));
  return {
    name,
    architecture: card.architecture,
    classes: labels.map((label, place) => ({ class_id: place, label, wnid: null })),
    preprocessing: card.preprocessing,
    task: "classification",
    output: "logits",
    parameters: resized(card.parameters, channels + 1),
    macs: resized(card.macs, channels),
    training_data: "pictures taught in the browser",
    licence: card.licence ?? null,
    source: card.source ?? null,
    trained_from: card.trained_from ?? card.weights ?? null,
    taught: { model: card.taught?.model ?? card.name, backbone, images, accuracy, low, high, created },
    metrics: [],
    verification,
    decision: { precision, data: "pictures taught in the browser", images, temperature, created },
    created,
    shvit_version: card.shvit_version ?? null,
    schema_version: 2,
  };
}
