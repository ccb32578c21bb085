// Runbooks and runs as the collector tells of them, and what can be asked of it about them.
import { get, OURS, write } from "./api";

export interface Runbook {
  name: string;
  digest: string;
  about: string;
  file: string;
  accepted_by: string;
  accepted: string | null;
  ready: boolean | null;
  not_ready: string[];
  preflight: string | null;
  rto_s: number;
  rpo_s: number;
  trigger: string;
  automatic: boolean;
  breaker_open: boolean;
  drill_every_s: number;
  last_drill: string | null;
  last_drill_state: string;
  drill_due: string | null;
  recovery_p90_s: number | null;
  findings: { file: string; line: number; where: string; severity: string; message: string }[];
  open_runs: number;
}

export interface Attempt {
  host: string;
  attempt: number;
  key: string;
  purpose: string;
  state: string;
  outcome: string;
  exit_code: number | null;
  started: string | null;
  ended: string | null;
  argv: string[];
  output: string;
  errors: string;
  detail: string;
}

export interface Vote {
  person: string;
  approve: boolean;
  at: string;
  counted: boolean;
  why_not: string;
  comment: string;
}

export interface Step {
  id: string;
  kind: string;
  state: string;
  detail: string;
  started: string | null;
  ended: string | null;
  attempts: Attempt[];
  role: string;
  needed: number;
  votes: Vote[];
  manifest: string;
  manifest_digest: string;
  gate_expires: string | null;
  verified_on_host: boolean;
}

export interface Run {
  id: string;
  runbook: string;
  digest: string;
  state: string;
  state_detail: string;
  drill: boolean;
  requester: string;
  reason: string;
  trigger: string;
  parameters: Record<string, string>;
  lock: string;
  created: string;
  started: string | null;
  ended: string | null;
  recovered: string | null;
  recovery_s: number | null;
  rto_s: number;
  steps: Step[];
}

export interface JournalRow {
  n: number;
  at: string;
  kind: string;
  step: string;
  host: string;
  actor: string;
  detail: Record<string, unknown>;
}

export interface Automation {
  paused: boolean;
  by: string;
  reason: string;
  since: string | null;
}

export type Verb = "retry" | "skip" | "mark-done" | "undo" | "abort" | "start";

const runPath = (id: string): string => `${OURS}/runs/${encodeURIComponent(id)}`;

export const fetchRunbooks = async (): Promise<Runbook[]> => (await get<{ runbooks: Runbook[] }>(`${OURS}/runbooks`)).runbooks;

export const fetchRunbook = (name: string): Promise<{ runbook: Runbook; text: string }> => get(`${OURS}/runbooks/${encodeURIComponent(name)}`);

export const fetchRuns = (params: Record<string, string>): Promise<{ runs: Run[]; truncated: boolean }> => get(`${OURS}/runs`, params);

export const fetchRun = (id: string): Promise<Run> => get(runPath(id));

export const fetchJournal = async (id: string): Promise<JournalRow[]> => (await get<{ rows: JournalRow[] }>(`${runPath(id)}/journal`)).rows;

export const fetchAutomation = (): Promise<Automation> => get(`${OURS}/automation`);

export const changeRun = (id: string, verb: Verb, step: string, reason: string): Promise<Run> =>
  write("POST", `${runPath(id)}/${verb}`, { step, reason });

/** A vote at a gate that no host looks at; the token shows again who is here. */
export const approveGate = (id: string, step: string, approve: boolean, comment: string, token: string): Promise<Run> =>
  write("POST", `${runPath(id)}/approve`, { step, approve, comment, token });

export const turnAutomation = (word: "pause" | "resume", reason: string): Promise<Automation> =>
  write("POST", `${OURS}/automation/${word}`, { reason });
