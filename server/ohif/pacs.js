// What the PACS says of series, asked through this server's proxy.

const PATIENT_ID = '00100020';
const STUDY = '0020000D';
const SERIES = '0020000E';
const DESCRIPTION = '0008103E';

/** [{series, study, text}] for SeriesInstanceUIDs, as far as the PACS has them. */
export async function series(uids) {
  const root = window.config.dataSources[0].configuration.qidoRoot;
  const fields = [PATIENT_ID, DESCRIPTION].map((tag) => `includefield=${tag}`).join('&');
  const response = await fetch(`${root}/series?SeriesInstanceUID=${uids.map(encodeURIComponent).join(',')}&${fields}`, {
    headers: { Accept: 'application/dicom+json' },
  });
  if (response.status === 204) return [];
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new Error(answer.detail ?? `The PACS answered with ${response.status}.`);
  }
  return (await response.json()).map((found) => {
    const value = (tag) => found[tag]?.Value?.[0] ?? '';
    return {
      series: value(SERIES),
      study: value(STUDY),
      text: [value(PATIENT_ID), value(DESCRIPTION)].filter(Boolean).join(' \u00b7 ') || value(SERIES),
    };
  });
}
