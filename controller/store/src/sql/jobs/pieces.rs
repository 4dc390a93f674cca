//! The text of jobs, a row per batch of pieces.

use homelab_domain::ids::JobId;
use jiff::Timestamp;

use super::{
    super::{
        args::{at, blob, int, text},
        both, each,
    },
    InJobs,
};
use crate::{
    error::{JobError, StoreError},
    noun::jobs::Piece,
};

impl InJobs<'_> {
    pub(super) async fn append_pieces(
        &mut self,
        id: JobId,
        attempt: u32,
        pieces: &[Piece],
        until: Timestamp,
    ) -> Result<(), JobError> {
        let Some(first) = pieces.first() else { return Ok(()) };
        let added = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
        let in_order = pieces.iter().zip(first.index..).all(|(piece, index)| piece.index == index);
        // The fence and the order in one statement; only when it does not hold is
        // the job read, to say why.
        let sql = each(
            "UPDATE jobs SET pieces = pieces + $4, lease_until = MAX(lease_until, $5)
             WHERE id = $1 AND attempt = $2 AND pieces = $3 AND state = 'running'",
            "UPDATE jobs SET pieces = pieces + $4, lease_until = GREATEST(lease_until, $5)
             WHERE id = $1 AND attempt = $2 AND pieces = $3 AND state = 'running'",
        );
        let args = [text(id), int(attempt), int(first.index), int(added), at(until)];
        if !in_order || self.0.run("count the text of a job", sql, &args).await? == 0 {
            let job = self.lock(id).await?.ok_or(JobError::NotFound(id))?;
            let wrong = pieces.iter().zip(first.index..).find(|(piece, at)| piece.index != *at);
            let first = wrong.map_or(first.index, |(piece, _)| piece.index);
            job.wrote(attempt, first, added, until)?;
            let what = format!("the text of job {id}");
            return Err(StoreError::Conflict { what }.into());
        }
        let sql = both(
            "INSERT INTO job_pieces (job_id, first_index, pieces, body) VALUES ($1, $2, $3, $4)",
        );
        let body = encode(pieces);
        let args = [text(id), int(first.index), int(added), blob(&body)];
        self.0.run("keep the text of a job", sql, &args).await?;
        Ok(())
    }

    pub(super) async fn read_pieces(
        &mut self,
        id: JobId,
        from_index: u32,
        limit: u32,
    ) -> Result<Vec<Piece>, StoreError> {
        // Each row holds at least one piece, so as many rows are always enough.
        let sql = both(
            "SELECT job_id, first_index, body FROM job_pieces
             WHERE job_id = $1 AND first_index + pieces > $2 ORDER BY first_index LIMIT $3",
        );
        let args = [text(id), int(from_index), int(limit)];
        let mut pieces = Vec::new();
        for row in self.0.rows("read the text of a job", sql, &args).await? {
            let fields = row.of("job_pieces", "job_id");
            let (first, body) = (fields.u32("first_index")?, fields.blob("body")?);
            let batch = decode(first, &body).ok_or_else(|| fields.wrong("body"))?;
            pieces.extend(batch.into_iter().filter(|piece| piece.index >= from_index));
        }
        pieces.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(pieces)
    }
}

/// Each piece as three texts with their lengths before them: bytes that an engine
/// sent come out as they went in.
fn encode(pieces: &[Piece]) -> Vec<u8> {
    let mut body = Vec::new();
    for piece in pieces {
        for part in [piece.content.as_bytes(), piece.reasoning.as_bytes(), &piece.openai_chunk] {
            body.extend_from_slice(&(part.len() as u64).to_be_bytes());
            body.extend_from_slice(part);
        }
    }
    body
}

/// None when the bytes are not what [`encode`] makes.
fn decode(first: u32, mut body: &[u8]) -> Option<Vec<Piece>> {
    let part = |body: &mut &[u8]| {
        let (length, rest) = body.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
        let (part, rest) = rest.split_at_checked(length)?;
        *body = rest;
        Some(part.to_vec())
    };
    let mut pieces = Vec::new();
    for index in first.. {
        if body.is_empty() {
            break;
        }
        let content = String::from_utf8(part(&mut body)?).ok()?;
        let reasoning = String::from_utf8(part(&mut body)?).ok()?;
        pieces.push(Piece { index, content, reasoning, openai_chunk: part(&mut body)? });
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_as_they_went_in() {
        let pieces: Vec<Piece> = (7..10)
            .map(|index| Piece {
                index,
                content: "héllo".repeat(index as usize),
                reasoning: String::new(),
                openai_chunk: vec![0, 255, 10],
            })
            .collect();
        let body = encode(&pieces);
        assert_eq!(decode(7, &body).unwrap(), pieces);
        assert_eq!(decode(7, &body[..body.len() - 1]), None);
        assert_eq!(decode(0, &[]).unwrap(), vec![]);
    }
}
